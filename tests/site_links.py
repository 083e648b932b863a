"""What the pages of a built site ask for and lead to."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
LINKS_THAT_LOAD = {"stylesheet", "preload", "preconnect", "icon", "dns-prefetch", "manifest"}


@dataclass
class Page(HTMLParser):
    """A page as it was read: what it loads, what it leads to, and places in it."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if LOADS.get(tag) in given:
            self.loads.append(given[LOADS[tag]])
        if tag == "link" and set(given.get("rel", "").split()) & LINKS_THAT_LOAD:
            self.loads.append(given.get("href", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def read_site(site: Path) -> dict[str, Page]:
    """Every page of a site, by its path in it."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(site).as_posix()] = page
    return pages


def foreign(pages: dict[str, Page], site: Path) -> list[str]:
    """What is loaded from elsewhere when a page is opened, by page or style sheet."""
    asked = [
        f"{name}: {address}"
        for name, page in pages.items()
        for address in page.loads
        if urlsplit(address).scheme not in {"", "data"} or address.startswith("//")
    ]
    for sheet in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text())
        asked += [f"{sheet.name}: {address}" for address in found]
    return asked


def dead(pages: dict[str, Page], site: Path) -> list[str]:
    """Links and files within the site that lead nowhere, and anchors that are on no page."""
    lost = []
    for name, page in pages.items():
        for address in (*page.links, *page.loads):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            at = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
            target = name if not parts.path else at
            if not (site / target).is_file():
                lost.append(f"{name}: {address}")
            elif parts.fragment and target in pages:
                known = pages[target].anchors
                if unquote(parts.fragment) not in known and not parts.fragment.startswith("__"):
                    lost.append(f"{name}: {address}")
    return lost
