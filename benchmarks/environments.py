"""What each environment holds and how large it is: the daemon's, the core's, the plugin's.

Run: python -m benchmarks.environments [--before COMMIT]

Builds our wheels as they are published, installs them into fresh virtual environments from the
package index, and counts files as they lie on disk, compiled ones included. With ``--before`` it
does the same with what ``pip install .`` of that commit brings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("packages/ring", "packages/actuatord", "integrations/sglang", ".")
ENVIRONMENTS = {
    "plugin, in the engine's": "voltana-sglang",
    "daemon": "voltana-actuatord",
    "core": "voltana",
    "agent and router": "voltana-sglang[serving]",
    "everything": "voltana[all]",
}
"""Environments, and what is installed into them."""


def uv(*arguments: str | Path, **environment: str) -> str:
    """Run uv of this environment; its standard output.

    Raises:
        CalledProcessError: If it fails; what it said stands on standard error.
    """
    program = Path(sys.executable).parent / "uv"
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def build_wheels(folder: Path) -> Path:
    """Build the wheels of all our distributions as they are published."""
    for place in DISTRIBUTIONS:
        uv("build", "-q", "--wheel", "-o", folder, ROOT / place, VOLTANA_RELEASE="1")
    return folder


def make_environment(folder: Path, *requirements: str | Path) -> Path:
    """A fresh virtual environment with so much in it; its interpreter."""
    uv("venv", "-q", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "-q", "--compile-bytecode", "--python", python, *requirements)
    return python


def size_mb(folder: Path) -> float:
    """Size of all files in megabytes (10^6 bytes)."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def packages(python: Path) -> list[str]:
    """Names of what is installed."""
    listed = uv("pip", "list", "-q", "--format", "freeze", "--python", python)
    return [line.partition("==")[0].partition(" @")[0] for line in listed.splitlines()]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="a commit whose `pip install .` is measured too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        print("| environment | holds | packages | MB |\n| --- | --- | ---: | ---: |")
        if options.before:
            old = folder / "old"
            git = ["git", "-C", str(ROOT), "worktree"]
            subprocess.run([*git, "add", "-q", "--detach", str(old), options.before], check=True)
            try:
                _row(f"all of them, {options.before[:7]}", folder / "before", "`.`", old)
            finally:
                subprocess.run([*git, "remove", "--force", str(old)], check=True)
        wheels = build_wheels(folder / "wheels")
        for index, (name, requirement) in enumerate(ENVIRONMENTS.items()):
            shown = f"`{requirement}`"
            _row(name, folder / str(index), shown, "--find-links", wheels, requirement)


def _row(name: str, folder: Path, shown: str, *requirements: str | Path) -> None:
    python = make_environment(folder, *requirements)
    print(f"| {name} | {shown} | {len(packages(python))} | {size_mb(folder):.1f} |", flush=True)


if __name__ == "__main__":
    main()
