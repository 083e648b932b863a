"""What our environments are made of: every package by its exact version and its hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file
    for folder in (ROOT / "requirements", *ROOT.glob("integrations/*/requirements"))
    for file in folder.iterdir()
    if file.suffix in {".lock", ".txt"}
)
PINNED = re.compile(
    r"[\w.-]+(\[[\w,-]+\])?\s*==\s*[\w.+!-]+(\s*;[^#]*?)?(\s+--hash=sha256:[0-9a-f]{64})+"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_requirement_is_pinned_with_its_hash(file: Path) -> None:
    text = re.sub(r"\s*\\\n\s*", " ", file.read_text())
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    required = [line for line in lines if line and not line.startswith("--")]
    assert required
    assert [line for line in required if not PINNED.fullmatch(line)] == []


def test_what_is_set_up_is_set_up_with_hashes() -> None:
    """Pip looks at no hash unless it is told to, or the file has one."""
    commands = re.findall(r"pip_?install.*-r\s+\S+", (ROOT / "Makefile").read_text(), re.I)
    assert commands
    assert [command for command in commands if "--require-hashes" not in command] == []
