"""Whatever is typed ends in success, or in exit code 2 and one line: never in a traceback."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voltana.cli import analyze
from voltana.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODULE = """
import os
from pathlib import Path
from voltana.values import Decision

class Fine:
    def decide(self, observation):
        return Decision(clock_mhz=1200, reason="fine")

class Raises:
    def __init__(self):
        raise RuntimeError("two\\nlines")
    def decide(self, observation): ...

class RaisesLater:
    def decide(self, observation):
        raise KeyError("later")

class Needs:
    def __init__(self, one, two): ...

class Leaves:
    def __init__(self):
        raise SystemExit(0)

def nothing(): return None
def wrong(context): return context.no_such_field
VALUE = 3
"""

NUMBERS = ["1", "2", "0", "-1", "0.5", "nan", "inf", "-inf", "1e400", "x", "", "0x10", "1_0", "٣"]
POLICIES = [
    "static-max", "static-low", "", ",", "nope", "typed_mine:Fine", "typed_mine:Raises",
    "typed_mine:RaisesLater", "typed_mine:Needs", "typed_mine:Leaves", "typed_mine:nothing",
    "typed_mine:wrong", "typed_mine:VALUE", "typed_mine:absent", "typed_mine:", ":x", "..:x",
    "no_such_module:x", "typed_broken:x", "builtins:int", "json:loads",
    "static-max,typed_mine:Fine",
]  # fmt: skip
PATHS = ["", ".", "absent.toml", "/dev/null", "a\0b", "scenario.toml", "trace.csv", "binary", "~"]
NAMES = [
    "",
    "nope",
    "sharegpt",
    "a100-sxm4-80gb",
    "h100-sxm",
    "llama-3.1-8b",
    "../x",
    "config.json",
]

OUTPUTS = ["-", "out.json", ".", "/proc/no/such", "", "/dev/full"]

SHARED: Mapping[str, list[str]] = {
    "--policy": POLICIES,
    "--rate": ["5", *NUMBERS],
    "--duration": ["1", *NUMBERS],
    "--hardware": NAMES,
    "--model": NAMES,
    "--decode": ["1", "2", "1025", *NUMBERS],
    "--slo-itl-ms": ["65", "1", *NUMBERS],
    "--seed": ["7", "99999999999999999999999", *NUMBERS],
    "--json": OUTPUTS,
    "--log-level": ["warning", "loud", ""],
}
COMMANDS: Mapping[str, tuple[list[str], Mapping[str, list[str]], list[str]]] = {
    "simulate": (
        ["--rate", "5", "--duration", "1", "--prefill", "1", "--decode", "1"],
        {
            **SHARED,
            "--workload": NAMES,
            "--arrival": ["poisson", "gamma", "diurnal", "nope"],
            "--cv": NUMBERS,
            "--trace": PATHS,
            "--trace-format": ["auto", "azure", "csv", "sglang", "nope", ""],
            "--time-unit": ["s", "ms", "h", ""],
            "--rate-scale": NUMBERS,
            "--window-start": NUMBERS,
            "--max-prompt-tokens": ["1", "99999999999999999999", *NUMBERS],
            "--tp": ["1", "2", "3", *NUMBERS],
            "--power-budget": ["100", "2000", *NUMBERS],
            "--slo-ttft-ms": ["600", *NUMBERS],
        },
        PATHS,
    ),
    "bound": (
        ["--rate", "5", "--duration", "1", "--prefill", "1", "--decode", "1"],
        {**SHARED, "--margin": NUMBERS},
        PATHS,
    ),
    "analyze": (
        ["--rate", "5", "--duration", "20", "--decode", "1"],
        {
            **SHARED,
            "--modulus-margin": NUMBERS,
            "--phase-margin": NUMBERS,
            "--gain-margin": NUMBERS,
            "--delay-margin-ms": NUMBERS,
            "--gains": ["300,600", "1", "1,2,3,4", "nan,1", "a,b", "", ",", "-1,2"],
            "--clock": ["1200", "5000", *NUMBERS],
            "--design": [],
        },
        PATHS,
    ),
    "plant show": (
        [],
        {
            "--hardware": NAMES,
            "--model": NAMES,
            "--tp": ["2", "7", *NUMBERS],
            "--phase": ["decode", "prefill", "nope"],
            "--batch": ["1,8", "1,,2", "1e3", *NUMBERS],
            "--context": ["1024", "100000000000", *NUMBERS],
            "--clock": ["all", "even:3", "even:x", "above:900", "device:0", "5000", *NUMBERS],
            "--json": [],
        },
        [],
    ),
    "plant": ([], {}, ["list", "nope"]),
    "policies": ([], {}, ["nope"]),
    "check": (
        ["--programs", "0"],
        {
            "--role": ["prefill", "decode", "", "nope"],
            "--seed": NUMBERS,
            "--programs": ["0", "-1", "x"],
            "--json": [],
        },
        [name for name in POLICIES if name != "typed_mine:Fine"],
    ),
    "top": (
        ["--once"],
        {"--from": PATHS, "--period": NUMBERS, "--json": []},
        ["127.0.0.1:1", "http://[::1", "file:///etc/passwd", "", "a b", "http://127.0.0.1:99999"],
    ),
    "actuator status": ([], {"--socket": PATHS, "--json": []}, ["nope"]),
    "actuator restore": ([], {"--socket": PATHS}, []),
    "actuator lease": (
        ["--seconds", "0.1", "--socket", "absent"],
        {"--gpus": ["0", "0,0", "-1", "x", ""], "--socket": PATHS},
        ["1200", "x", "nan", "-1"],
    ),
}
"""For each command: what keeps it quick, its options with values, and its arguments."""


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command line, mostly of words that the command knows."""
    name = draw(st.sampled_from(list(COMMANDS)))
    quick, options, arguments = COMMANDS[name]
    typed = [*name.split(), *quick]
    for option in draw(st.lists(st.sampled_from(list(options) or ["--nope"]), max_size=3)):
        typed.append(option)
        if options.get(option):
            typed.append(draw(st.sampled_from(options[option])))
    if arguments:
        typed += draw(st.lists(st.sampled_from(arguments), max_size=1))
    junk = st.sampled_from(["--nope", "-x", "--", "--help", "-h", "--json", "extra", "--rate"])
    return typed + draw(st.lists(junk, max_size=1).filter(lambda added: len(added) < 2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "typed_mine.py").write_text(MODULE)
    (tmp_path / "typed_broken.py").write_text("import os\n1 / 0\n")
    (tmp_path / "scenario.toml").write_text('[workload]\nname = "sharegpt"\nrate_rps = "many"\n')
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,9,3\n1,9,3\n")
    (tmp_path / "config.json").write_text('{"hidden_size": "wide", "num_hidden_layers": []}')
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # What is typed is validated before this runs, for seconds.
    monkeypatch.setattr(analyze, "_run", lambda *_args, **_options: None)
    return tmp_path


def typed(line: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["voltana", *line])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    structlog.reset_defaults()
    return code, out.getvalue(), err.getvalue()


@given(line=lines())
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_line_succeeds_or_says_in_one_line_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    code, _out, err = typed(line, monkeypatch)
    assert "Traceback" not in err
    if code == 2:
        (complaint,) = [text for text in err.splitlines() if text.startswith("voltana: ")]
        assert err.splitlines()[-1] == complaint
        assert len(complaint) > len("voltana: ") + 10
    elif code == 1:  # a check that failed, agents that are silent, a board that lacks something
        assert line[0] in {"check", "top", "actuator"}
    else:
        assert code == 0


def is_gibberish(word: str) -> bool:
    """Hypothesis draws some of its texts from literals of the sources: a command's name is none."""
    registered = (*cli.app.registered_commands, *cli.app.registered_groups)
    return word not in {one.name for one in registered}


@given(words=st.lists(st.text(max_size=12).filter(is_gibberish), max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_gibberish_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    code, out, err = typed(words, monkeypatch)
    assert code in {0, 2}
    assert out or len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [(">/dev/full", 2, "output cannot be written: No space left on device"), (">&-", 0, "")],
)
def test_an_output_that_takes_nothing_is_no_traceback(
    redirection: str, code: int, said: str
) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'"$0" -m voltana policies {redirection}', sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == bool(said)


def test_a_question_ends_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, err = typed(["simulat"], monkeypatch)
    assert err == (
        "voltana: No such command 'simulat'. Did you mean 'simulate'? Run 'voltana --help'.\n"
    )
