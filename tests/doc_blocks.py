"""The blocks of code on the pages of the documentation, in their order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in sorted(
        [
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        ]
    )
}
"""Every page, by its path in the repository."""

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code.

    Attributes:
        language: What stands behind the fence; empty where nothing does.
        title: Name of the file that it is, where it says one.
        code: Its text, without the indentation of the block.
        line: Where it begins on its page, from 1.
    """

    language: str
    title: str
    code: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Its command lines, with continued ones joined and comments left out."""
        joined = re.sub(r"\\\n\s*", "", self.code)
        return [line for line in map(without_comment, joined.splitlines()) if line]


def without_comment(line: str) -> str:
    """A line of the shell without what follows a # that begins a word."""
    return re.sub(r"(^|\s)#\s.*$", "", line).strip()


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(
            language=found["language"],
            title=(_TITLE.findall(found["rest"]) or [""])[0],
            code=re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
            line=text.count("\n", 0, found.start()) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


def words_of(command: str) -> list[str]:
    """Words of a command, up to a pipe."""
    return shlex.split(command.partition(" | ")[0])
