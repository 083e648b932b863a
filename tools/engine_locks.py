"""Gives pins of the engines' environments their hashes: ``make lock-sglang``, ``make lock-vllm``.

What is pinned stays; only the hashes are fetched again. Torch keeps those that stand there beside
the index's own: the CPU build, which the tests use, is not on the usual index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

INTEGRATIONS = Path(__file__).parents[1] / "integrations"

_PIN = re.compile(r"^[\w.-]+==\S+", re.MULTILINE)
_TORCH = re.compile(r"^torch==\S+ \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)


def main() -> None:
    """Write every lock of an engine anew, whose name is the first argument."""
    engine = sys.argv[1]
    for lock in sorted((INTEGRATIONS / engine / "requirements").glob(f"{engine}-*.txt")):
        lock.write_text(hashed(lock.read_text(encoding="utf-8")), encoding="utf-8")


def hashed(text: str) -> str:
    """A lock with the hashes of today.

    Args:
        text: The lock; its head of comments is kept.
    """
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    with tempfile.TemporaryDirectory() as folder:
        pins, made = Path(folder, "pins.txt"), Path(folder, "made.txt")
        pins.write_text("\n".join(_PIN.findall(text)), encoding="utf-8")
        command = ["uv", "pip", "compile", pins, "--no-deps", "--universal", "--generate-hashes"]
        command += ["--no-emit-index-url", "--no-header", "--no-annotate", "--upgrade", "-q"]
        command += ["--python-version", "3.11", "-o", made]
        subprocess.run([Path(sys.executable).with_name("uv"), *command[1:]], check=True)
        new = made.read_text(encoding="utf-8")
    known = _TORCH.search(text)
    return head + (new if known is None else _with(new, known[1]))


def _with(text: str, hashes: str) -> str:
    """A lock with further hashes of torch, the known ones first."""
    found = _TORCH.search(text)
    if found is None:
        return text
    known = [line.strip(" \\\n") for line in hashes.splitlines()]
    every = list(dict.fromkeys([*known, *(line.strip(" \\\n") for line in found[1].splitlines())]))
    body = " \\\n".join(f"    {one}" for one in every) + "\n"
    return text[: found.start(1)] + body + text[found.end(1) :]


if __name__ == "__main__":
    main()
