"""The file of the token: nobody else's, whatever lies in its place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from voltana.errors import ConfigError
from voltana.serving.admin import token as tokens
from voltana.serving.admin.token import VARIABLE, Token, default_path, find_token, known_token

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


def find(home: Path, path: Path | None = None) -> Token | None:
    return find_token(path, {"XDG_STATE_HOME": str(home)}, field="admin_token_file")


def test_it_is_made_once_for_all_that_start_at_the_same_time(tmp_path: Path) -> None:
    code = (
        "import os; from voltana.serving.admin.token import find_token;"
        "print(find_token(None, os.environ, field='f').header()['Authorization'])"
    )
    environment = {"XDG_STATE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(6)
    ]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert len(said) == 1
    path = default_path(environment)
    assert len(path.read_text().strip()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0
    assert [p.name for p in path.parent.iterdir()] == ["admin.token"]  # nothing half made is left


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666, 0o602])
def test_one_that_others_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 40)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as error:
        find(tmp_path, path)
    assert "x" * 40 not in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 40)
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="this user"):
        find(tmp_path, path)
    folder = default_path({"XDG_STATE_HOME": str(tmp_path)}).parent
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="folder of this user"):
        find(tmp_path)


def test_a_link_in_its_place_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    path = default_path({"XDG_STATE_HOME": str(tmp_path)})
    path.parent.mkdir(mode=0o700)
    aim = tmp_path / "precious"
    for target in (aim, "/etc/passwd"):
        path.symlink_to(target)
        with pytest.raises(ConfigError, match="no link"):
            find(tmp_path)
        path.unlink()
    assert not aim.exists()


def test_a_folder_that_others_write_to_holds_no_token(tmp_path: Path) -> None:
    path = default_path({"XDG_STATE_HOME": str(tmp_path)})
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="others cannot write"):
        find(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "folder", "empty", "short", "lines", "binary", "huge"])
def test_what_is_no_token_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        contents = {
            "empty": b"", "short": b"secret", "lines": b"a" * 20 + b"\n" + b"b" * 20,
            "binary": b"\0" * 40, "huge": b"a" * 100_000,
        }  # fmt: skip
        path.write_bytes(contents[kind])
        path.chmod(0o600)
    with pytest.raises(ConfigError, match="admin_token_file"):
        find(tmp_path, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_without_a_place_for_it_serving_goes_on(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert find(tmp_path) is None


def test_without_a_folder_serving_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert find(tmp_path / "file") is None
    assert known_token(None, {"XDG_STATE_HOME": str(tmp_path)}) is None


def test_a_comparison_takes_as_long_for_any_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of equal length are compared, in constant time."""
    compared = []
    real = tokens.hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(tokens.hmac, "compare_digest", noted)
    known = Token("s" * 40, "here")
    guesses = ["", "s", "s" * 39, "s" * 40, "s" * 41, "x" * 5000, "\udcff", "é"]
    assert [known.opens(guess) for guess in guesses] == [guess == "s" * 40 for guess in guesses]
    assert set(compared) == {(32, 32)}
    assert len(compared) == len(guesses)


def test_the_environment_may_hold_it(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path), VARIABLE: "e" * 32}
    found = find_token(None, environment, field="f")
    assert found is not None
    assert found.opens("e" * 32)
    assert not default_path(environment).exists()
    with pytest.raises(ConfigError, match=VARIABLE):
        find_token(None, environment | {VARIABLE: "short"}, field="f")
