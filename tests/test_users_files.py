"""Files that users name: whatever is in them, one line of error, or what they mean."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

from voltana import users_file
from voltana.cli.top import _listed
from voltana.errors import ConfigError, VoltanaError
from voltana.evaluation.budget_file import read_budget
from voltana.evaluation.report.series import read_series as read_figures
from voltana.evaluation.reproduce.published import read_points
from voltana.evaluation.scenario import read_tables
from voltana.evaluation.sweep.rows_file import read_rows
from voltana.evaluation.sweep.store import read_plan
from voltana.evaluation.time_series import read_series
from voltana.plant.hardware import load_hardware
from voltana.plant.model import ModelProfile
from voltana.plant.workload.replay.source import open_text
from voltana.predictors.profile import load_profile
from voltana.predictors.tables import load_tables
from voltana.serving.router.keys import find_keys
from voltana.serving.toml_file import read_toml as read_config
from voltana.users_file import MOST_PARTS, load_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW = '{"at_s": 0, "watts": 1500}'
DIGITS = "9" * 5000
ODD = {
    "deep.json": "[" * 100_000,
    "deep objects.json": '{"step":' * 50_000,
    "deep.toml": "step = " + "[" * 100_000,
    "twice.json": '{"step": [{"at_s": 0, "watts": 1500, "watts": 1}]}',
    "twice.toml": "repeat_s = 1\nrepeat_s = 2",
    "nan.json": '{"step": [{"at_s": 0, "watts": NaN}]}',
    "digits.json": '{"step": [{"at_s": 0, "watts": ' + DIGITS + "}]}",
    "digits.toml": f"[[step]]\nat_s = 0\nwatts = {DIGITS}",
    "digits.csv": f"0,{DIGITS}\n",
    "digits in time.csv": f"0,1500\n{DIGITS},1200\n",
    "negative.json": '{"step": [{"at_s": -1, "watts": 1500}]}',
    "nothing.json": "null",
    "nothing.csv": "",
    "nul.csv": "0,15\x0000\n",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_budget_is_one_short_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(ODD[name])
    with pytest.raises(ConfigError) as caught:
        read_budget(path)
    text = str(caught.value)
    assert "power_budget_file" in text
    assert name in text
    assert "\n" not in text
    assert len(text) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["a.json", "a.toml", "a.csv"])
def test_a_byte_order_mark_is_no_part_of_it(name: str, tmp_path: Path) -> None:
    text = {
        "a.json": f'{{"step": [{ROW}]}}',
        "a.toml": "[[step]]\nat_s = 0\nwatts = 1500",
        "a.csv": "0,1500\n",
    }
    (tmp_path / name).write_text(text[name], encoding="utf-8-sig")
    assert read_budget(tmp_path / name).budget_w == (1500.0,)


@pytest.mark.parametrize("name", ["a.json", "a.toml", "a.csv"])
def test_a_device_without_an_end_ends(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="a device, and must be a regular file"):
        read_budget(tmp_path / name)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, f"seed = {DIGITS}", "\ufeff\ufeffx"])
def test_an_odd_scenario_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"scenario .*a\.toml"):
        read_tables(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[" * 100_000),
        ("a.toml", "run=" + "[" * 9999),
        ("a.json", '[{"rate": 1, "rate": 2}]'),
        ("a.jsonl", '{"rate": 1, "rate": 2}'),
    ],
)
def test_an_odd_list_is_an_error_that_names_the_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"list .*{name}"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 20_000) + " = 1",
        " . ".join(['"a,b"'] * 20_000) + " = 1",
        "[" + ".".join(["'a.'"] * 20_000) + "]\n" + "x = 1\n" * 99,
        "x = {" + ".".join("a" * 20_000) + " = 1}",
        'x = ["""\na"" \\""""" , {' + ".".join("a" * 20_000) + " = 1}]",
        "x = ['''\na''''', {" + ".".join("a" * 20_000) + " = 1}]",
        ".".join("a" * (MOST_PARTS + 1)) + " = 1",
    ],
    ids=["bare", "quoted", "table", "inline", "after a text", "after a literal", "one too many"],
)
def test_a_key_of_too_many_parts_is_refused_before_it_is_parsed(text: str, tmp_path: Path) -> None:
    """Python's parser took 12 s for 20,000 of them."""
    with pytest.raises(ValueError, match=f"at most {MOST_PARTS} dotted parts"):
        load_toml(text)
    (tmp_path / "a.toml").write_text(text)
    for read in (read_tables, read_budget, read_config, load_hardware):
        with pytest.raises(VoltanaError, match=r"a\.toml.*dotted parts"):
            read(tmp_path / "a.toml")


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * MOST_PARTS) + " = 1",
        "x = [" + "1.5, " * 500 + "]",
        'x = "' + "a." * 500 + '"',
        "x = '" + "a." * 500 + "'",
        'x = """\n' + "a." * 500 + '"a."\n""""',
        "x = '''\n" + "a." * 500 + "'''",
        "# " + "a." * 500,
        '"' + "a." * 500 + '" = 1',
        "",
    ],
)
def test_dots_that_are_no_key_are_none(text: str) -> None:
    assert len(load_toml(text)) <= 1


WAYS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "scenario": ("a.toml", read_tables),
    "budget": ("a.toml", read_budget),
    "budget of rows": ("a.csv", read_budget),
    "list of a sweep": ("a.jsonl", read_rows),
    "price": ("a.csv", lambda path: read_series("price", path, figure="a number", remedy="")),
    "configuration": ("a.toml", read_config),
    "board": ("a.toml", load_hardware),
    "config.json": ("config.json", ModelProfile.from_hf_config),
    "predictor": ("a.json", load_profile),
    "tables": ("a.json", load_tables),
    "trace": ("a.csv", lambda path: open_text(path).__enter__()),
    "key": ("key", lambda path: find_keys(Settings(path), {})),
    "figures of a run": ("series.json", lambda path: read_figures(path.parent)),
    "published": ("a.csv", lambda path: read_points(path.parent)),
    "plan": ("sweep.json", lambda path: read_plan(path.parent)),
    "agents": ("agents.json", _listed),
}
"""What users name, and who reads it."""


class Settings:
    """Of a router, as far as keys go."""

    api_key = admin_api_key = admin_api_key_file = None

    def __init__(self, path: Path) -> None:
        self.api_key_file = path


@pytest.fixture
def in_time() -> Iterator[None]:
    """What waits for ever fails."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "error", "sparse"])
@pytest.mark.parametrize("what", WAYS)
def test_what_is_no_file_is_refused_at_once(what: str, kind: str, tmp_path: Path) -> None:
    name, read = WAYS[what]
    if what == "trace" and kind in {"error", "sparse"}:
        pytest.skip("a trace is read line by line")
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif (
        kind == "error"
    ):  # a regular file whose reading fails with EIO, as on a disk that is broken
        path.symlink_to("/proc/self/mem")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(VoltanaError, match=name.replace(".", r"\.")) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_kernel_s_that_has_nothing_to_read_yet_is_an_error_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is regular by its mode, and not waited for; a pipe behaves alike."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    monkeypatch.setattr(users_file, "_check_regular", lambda *_: None)
    try:
        with pytest.raises(OSError, match="nothing to read yet"):
            users_file.read_text(path)
    finally:
        os.close(handle)
