"""Every example on the pages of the documentation is run, or the registry says why not."""

from __future__ import annotations

import gzip
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from tests.doc_blocks import PAGES, ROOT, blocks_of, words_of
from tests.doc_registry import ELSEWHERE, FEWER, FILES, NOT_RUN, SHORTER
from voltana.cli.main import app
from voltana.config import parse_scenario
from voltana.errors import ConfigError
from voltana.evaluation.budget_file import BudgetFile
from voltana.serving.config import Config, parse_config
from voltana_actuatord.daemon.settings import DaemonSettings
from voltana_sglang.config import SglangConfig

SHELL = ("sh", "console")
LANGUAGES = {"", "python", "toml", "text", *SHELL}
EXAMPLES = [
    page
    for page in PAGES
    if any(
        block.language in SHELL or (block.language == "python" and page not in ELSEWHERE)
        for block in blocks_of(page)
    )
]
TOML = [(page, block) for page in PAGES for block in blocks_of(page) if block.language == "toml"]


def reason_not_to_run(command):
    return next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the pages take to be there, and ways to our own files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "requests.csv.gz").write_bytes(gzip.compress(FILES["requests.csv"].encode()))
    for name in ("benchmarks", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        home = getattr(sys.modules[name], "__file__", None) or ""
        if home.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run_in_their_order(page, folder):
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        where = f"{page}:{block.line}"
        if block.language == "python" and page not in ELSEWHERE:
            if block.title:
                (folder / block.title).write_text(block.code)
            exec(compile("\n" * block.line + block.code, str(PAGES[page]), "exec"), names)
        elif block.language in SHELL:
            for command in block.commands:
                if reason_not_to_run(command) is None:
                    run(command, where)


def run(command, where):
    """Run a command of ours, or a test that a page shows, in as little time as may be."""
    words = words_of(command)
    if words[:3] == ["python", "-m", "pytest"]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words[3:]],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: {command}\n{done.stdout}"
        return
    assert words[0] == "voltana", f"{where}: nothing runs {command!r}: see tests/doc_registry.py"
    done = CliRunner().invoke(app, quicker(words[1:]))
    assert done.exit_code == 0, f"{where}: {command}\n{done.output}\n{done.exception!r}"


def quicker(words):
    """The same command with less to do."""
    if words[0] == "sweep":
        text = shlex.join(words)
        for what, instead in SHORTER:
            text = re.sub(what, instead, text)
        grids = [] if "duration" in text or "base.toml" in text else ["--grid", "duration=1"]
        few = [] if "--policy" in text else ["--policy", "static-low"]
        return [*shlex.split(text), *grids, *few, "--workers", "1"]
    words = [*words, *FEWER.get(words[0], [])]
    if words[0] == "simulate" and "--policy" not in words and "scenario.toml" not in words[1]:
        words += ["--policy", "static-low"]
    return words


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_exists(page):
    """Targets and modules that a page names, whether in a block or not."""
    text = PAGES[page].read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^ *|\$ )make ([a-z-]+)", text, re.MULTILINE))
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
    modules = set(re.findall(r"python -m ((?:benchmarks|tests|tools)\.[\w.]+\w)", text))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_registry_names_nothing_that_is_not_shown():
    commands = [
        command
        for page in PAGES
        for block in blocks_of(page)
        if block.language in SHELL
        for command in block.commands
    ]
    unused = [what for what in NOT_RUN if not any(re.match(what, line) for line in commands)]
    assert unused == []
    for page, test in ELSEWHERE.items():
        assert page in PAGES
        assert page.rpartition("/")[2] in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    """A command in a block without a language would be run by nobody."""
    blocks = blocks_of(page)
    assert {block.language for block in blocks} <= LANGUAGES
    bare = [block for block in blocks if block.language == ""]
    assert [
        block.line for block in bare if re.match(r"(voltana|make|pip|python) ", block.code)
    ] == []


@pytest.mark.parametrize(("page", "block"), TOML, ids=lambda given: getattr(given, "line", given))
def test_every_file_that_is_shown_is_accepted(page, block):
    """As a scenario, a configuration of agents and router or of the daemon, or a power budget."""
    table = tomllib.loads(block.code)
    refusals = []
    for read in (
        parse_scenario,
        lambda given: parse_config(given, SglangConfig),
        lambda given: parse_config(given, Config),
        DaemonSettings.model_validate,
        BudgetFile.model_validate,
    ):
        try:
            read(table)
        except (ConfigError, ValueError) as error:
            refusals.append(str(error))
        else:
            return
    pytest.fail(f"{page}:{block.line} is refused by all: {refusals}")
