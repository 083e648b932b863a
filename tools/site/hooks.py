"""Hooks of the site's build (mkdocs.yml): pages read alike in the repository and on the site.

A link of a page may lead out of ``docs/``, to a page at the root of the repository or to a source
file. In the repository it works as it stands. On the site the pages of `ROOT_PAGES` are pages, and
any other file that a link names is copied, so that nothing leads to an address that nobody keeps.
A link whose text is the name of a page's file shows the page's title. Notebooks become pages too.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mkdocs.structure.files import File

from tools.site.notebook_page import notebook_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages at the root of the repository, and the pages of the site that they become."""

SOURCES = "source"
"""Folder of the site that the copies of source files lie in."""

_NAMED = re.compile(r"\[(?:docs/)?[\w./-]+\.md\](?=\(([^)\s#]+\.md)\))")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_log = logging.getLogger("mkdocs.voltana")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in ``docs/``, and those that notebooks become."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = notebook_page(Path(config.docs_dir) / file.src_uri)
        files.append(File.generated(config, f"{file.src_uri[:-6]}.md", content=text))
    for lies, becomes in ROOT_PAGES.items():
        text = (ROOT / lies).read_text(encoding="utf-8")
        files.append(File.generated(config, becomes, content=text))
    for source in sorted(_linked(files)):
        files.append(File.generated(config, _copy_of(source), abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Point links that leave ``docs/`` at what the site has in their place."""
    home = _home(page.file.src_uri)

    def titled(link: re.Match[str]) -> str:
        at = _in_repository(link[1], home)
        target = at and _on_site(at)
        file = files.get_file_from_path(target) if target else None
        title = _TITLE.search(file.content_string) if file else None
        return f"[{title[1]}]" if title else link[0]

    def pointed(link: re.Match[str]) -> str:
        at = _in_repository(link[2], home)
        if at is None:
            return link[0]
        target = _on_site(at)
        if target is None:
            _log.warning("%s: the link to %r leads nowhere", page.file.src_uri, link[2])
            return link[0]
        near = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{near}{link[3]}"

    return _outside_fences(markdown, lambda text: LINK.sub(pointed, _NAMED.sub(titled, text)))


def _home(src_uri: str) -> str:
    """Folder of the repository that the links of a page are relative to."""
    if src_uri in ROOT_PAGES.values():
        return ""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(src_uri)))


def _in_repository(target: str, home: str) -> str | None:
    """Path of the repository that a link names; None of what is not one of ours."""
    if urlsplit(target).scheme or target.startswith("/"):
        return None
    return posixpath.normpath(posixpath.join(home, target))


def _on_site(path: str) -> str | None:
    """Where the site has a file of the repository; None if the file does not exist."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return _copy_of(path) if (ROOT / path).is_file() else None


def _copy_of(source: str) -> str:
    """Where the copy of a source file lies; that of a page is text, for it is no page here."""
    return f"{SOURCES}/{source}{'.txt' if source.endswith('.md') else ''}"


def _linked(files: Files) -> set[str]:
    """Source files outside ``docs/`` that some page links to."""
    linked = set()
    for file in files.documentation_pages():
        home = _home(file.src_uri)
        for link in LINK.finditer(_FENCE.sub("", file.content_string)):
            at = _in_repository(link[2], home)
            if at is not None and _on_site(at) == _copy_of(at):
                linked.add(at)
    return linked


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Apply a change to what is not a block of code."""
    parts, at = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(markdown[at:])])
