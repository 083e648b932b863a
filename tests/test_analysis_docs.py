"""What docs/analysis.md shows works as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from voltana.analysis.report import HEADERS
from voltana.cli.main import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^voltana analyze.*?(?=\s+#|$)", PAGE, flags=re.MULTILINE)
OWN_POLICY = """
from voltana.policies.named import get_policy

def make():
    return get_policy("pid")
"""


def analyze_command():
    return get_command(app).commands["analyze"]


def test_the_python_of_the_page_runs(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(code, "analysis.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "integral_mhz_per_s=" in printed
    margin = float(re.search(r"modulus_margin=([\d.]+)", printed)[1])
    assert 0.7 <= margin < 1


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_are_understood(line) -> None:
    _, _, *args = shlex.split(line)
    context = analyze_command().make_context("analyze", args)
    assert context.args == []


def test_the_page_shows_commands_and_only_flags_that_exist() -> None:
    assert len(COMMANDS) == 4
    known = {flag for option in analyze_command().params for flag in option.opts}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert {"--design", "--gains", "--clock", "--duration"} <= shown <= known


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_run(line, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(OWN_POLICY)
    _, *args = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", "voltana", *args, "--duration", "40", "--rate", "40"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert all(word in words for header in HEADERS for word in header.split())
    assert ("PI for" in done.stdout) is ("--design" in args or "--gains" in args)
    if "--out" in args:
        assert sorted(p.name for p in (tmp_path / "out" / "analysis").iterdir()) == [
            "analysis.json", "bode.png", "nyquist.png", "scenario.toml", "step.png",
        ]  # fmt: skip
