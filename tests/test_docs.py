"""What the pages name exists: files of the tree, and flags of the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from voltana.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = sorted((*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"))

OUR_FOLDERS = r"(?:voltana|packages|integrations|benchmarks|tests|tools|packaging|deploy|examples)"
PATH = re.compile(rf"`({OUR_FOLDERS}/[\w./-]*)`")
NO_FILES = {"voltana/Cluster-v0"}
"""Names that look like a path: the id of a Gymnasium environment."""

MODULE = re.compile(r"`(voltana(?:_\w+)?(?:\.\w+)+)`")
COMMAND = re.compile(r"(?<![\w-])voltana ((?:[a-z]+ )+)((?:[^`|\n#]|\\\n)*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def text_of(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    named = set(PATH.findall(text_of(page))) - NO_FILES
    assert [path for path in named if not (ROOT / path).exists()] == []


def found(dotted):
    """Whether a dotted name leads to a module, or to something that one defines."""
    first, *rest = dotted.split(".")
    homes = [ROOT, *(ROOT / "packages").iterdir(), ROOT / "integrations" / "sglang"]
    for home in homes:
        at = home / first
        if not at.is_dir():
            continue
        for index, name in enumerate(rest):
            if (at / name).is_dir():
                at = at / name
                continue
            file = at / f"{name}.py"
            names = rest[index + 1 :] if file.is_file() else rest[index:]
            source = file if file.is_file() else at / "__init__.py"
            return not names or re.search(rf"\b{names[0]}\b", text_of(source)) is not None
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_exists(page):
    assert [name for name in MODULE.findall(text_of(page)) if not found(name)] == []


def subcommands(command):
    return getattr(command, "commands", {})


def flags_of(command):
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_of_a_command_that_a_page_shows_exists(page):
    root = typer.main.get_command(app)
    for words, rest in COMMAND.findall(text_of(page)):
        command = root
        for word in words.split():
            command = subcommands(command).get(word, command)
        if subcommands(command):
            continue
        unknown = set(FLAG.findall(rest)) - flags_of(command) - {"--help"}
        assert not unknown, f"voltana {words}{rest}"


def test_every_flag_on_the_page_of_simulate_is_one_of_its_flags():
    commands = subcommands(typer.main.get_command(app))
    flags = flags_of(commands["simulate"])
    assert set(FLAG.findall(text_of(ROOT / "docs" / "simulate.md"))) - flags - {"--help"} == set()
    shown = text_of(ROOT / "docs" / "simulate.md")
    assert [flag for flag in flags if flag.startswith("--") and flag not in shown] == []
