"""Files that users name: whatever is in them, one line of error, or what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voltana.errors import ConfigError
from voltana.evaluation.budget_file import read_budget
from voltana.evaluation.scenario import read_tables
from voltana.evaluation.sweep.rows_file import read_rows

if TYPE_CHECKING:
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
    with pytest.raises(ConfigError, match="longer than"):
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
