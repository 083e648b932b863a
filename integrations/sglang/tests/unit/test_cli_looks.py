"""`voltana-sglang` looks and fails like `voltana`: plain help, one line for what is wrong."""

from __future__ import annotations

import sys

import pytest

from voltana_sglang import cli


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*line):
        monkeypatch.setattr(sys, "argv", ["voltana-sglang", *line])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_plain_text_and_flags_have_no_type(typed, command, flag):
    code, out, err = typed(*command, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(('voltana-sglang', *command))}")
    assert "-h, --help" in out
    assert "<bool>" not in out
    assert not set("╭│╰") & set(out)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (("nope",), "No such command 'nope'. Run 'voltana-sglang --help'."),
        (("agent", "--nope"), "No such option: --nope"),
        (("agent",), "Missing option '--instance'. Run 'voltana-sglang agent --help'."),
        (("launch",), "Missing argument"),
        (("launch", "absent.toml", "--print"), "absent.toml"),
        (("launch", "/", "--print"), "/"),
        (("router", "--port", "many"), "--port"),
        (("router", "--config", "a\0b"), "router"),
        (("profile", "nowhere", "--out", "x"), "--instance"),
        (("steer", "--policy", "nope", "--upstream", "http://x", "--decode", "http://y"), "nope"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(typed, line, text):
    code, out, err = typed(*line)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("voltana-sglang: ")
    assert text in err


def test_without_a_command_it_prints_its_help(typed):
    code, out, err = typed()
    assert (code, err) == (2, "")
    assert "agent" in out
    assert "launch" in out
