"""`voltana rehearse` says in one line what is wrong, before anything starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from voltana.errors import MissingExtraError
from voltana.rehearsal import fake_driver
from voltana.rehearsal.port import DIALECTS, find_dialect

LAUNCH = '[launch]\nmodel_path = "m"\nprefill = 1\ndecode = 1\n'
ENGINE = '[engine]\nhardware = "a100-sxm4-80gb"\nmodel = "llama-3.1-8b"\n'
WHOLE = LAUNCH + ENGINE


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("", (), "has no table [launch]"),
        (LAUNCH, (), "engine.hardware, engine.model = (None, None) is not allowed"),
        ('[launch]\nmodel_path = "m"\nunified = 1\n' + ENGINE, (), "launch.unified = 1"),
        (WHOLE, ("--factor", "9"), "--factor = 9.0 is not allowed: must be 0.01 to 4"),
        (WHOLE, ("--factor", "nan"), "--factor = nan is not allowed"),
        (WHOLE, ("--engine", "sglagn"), "unknown engine 'sglagn'. Did you mean 'sglang'?"),
        (WHOLE, ("--policy", "voltna"), "unknown policy 'voltna'"),
        (WHOLE, ("--policy", "best-fixed"), "--policy = 'best-fixed' is not allowed"),
        (WHOLE, ("--rate", "-1"), "rate"),
        (WHOLE, ("--rate", "0"), "workload.rate_rps = 0.0 is not allowed: must be above 0"),
        (WHOLE, ("--duration", "0"), "workload.duration_s = 0.0 is not allowed: must be above 0"),
        (WHOLE, ("--trace-format", "azure"), "trace.file = None is not allowed: must be given"),
        (WHOLE, ("--window-start", "3"), "trace.file = None is not allowed: must be given"),
        (WHOLE, ("--trace", "t.csv", "--workload", "lmsys"), "both 'workload' and 'trace'"),
        (WHOLE, ("--fault", "agent"), "--fault = 'agent' is not allowed: must be one of agent,"),
        (WHOLE, ("--fault", "moon@3"), "agent@10 kills an agent after 10 s."),
        (WHOLE, ("--fault", "agent@300"), "0 to 2"),
        (WHOLE, ("--fault", "router@nan"), "--fault = 'router@nan' is not allowed"),
        (WHOLE, ("--fault", "engine@3"), "launch.decode is 1"),
        (WHOLE + "[actuatr]\n", (), "actuatr"),
    ],
)
def test_wrong_files_and_flags(voltana, tmp_path, text, flags, said):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    code, _, err = voltana("rehearse", path, *flags)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1, err


def test_a_wrong_flag_makes_no_folder(voltana, tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(WHOLE)
    for flags in (("--factor", "9"), ("--fault", "moon@3")):
        code, _, _ = voltana("rehearse", path, *flags, "--out", tmp_path / "out")
        assert code == 2
    assert not (tmp_path / "out").exists()


def test_a_second_interrupt_does_not_cut_the_end_short():
    code = """
import os, signal
from voltana.cli.rehearse import _end_cleanly
_end_cleanly()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_no_compiler(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(WHOLE)
    folders = dict.fromkeys(("PATH", "HOME", "XDG_CACHE_HOME"), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "voltana", "rehearse", str(path)],
        capture_output=True, text=True, check=False, timeout=120, env=folders,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no C compiler: one of cc, gcc, clang must be in the PATH" in done.stderr
    assert "Install gcc" in done.stderr


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no stdio.h here' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(fake_driver.CompilerError, match=r"no stdio\.h here"):
        fake_driver.built()
    assert not list((tmp_path / "cache").rglob(fake_driver.LIBRARY))


def test_the_driver_is_built_once(tmp_path, monkeypatch):
    if fake_driver.compiler() is None:
        pytest.skip("no C compiler (install gcc)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = fake_driver.built()
    made = (folder / fake_driver.LIBRARY).stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")
    assert fake_driver.built() == folder
    assert (folder / fake_driver.LIBRARY).stat().st_mtime_ns == made


def test_an_integration_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(DIALECTS, "other", "voltana_other.rehearsal:Other")
    with pytest.raises(MissingExtraError, match=r"pip install 'voltana-other\[rehearsal\]'"):
        find_dialect("other")
