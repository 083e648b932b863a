"""The site as readers see it: built strictly, its links followed, searched, on desk and phone.

`make test-report` runs these; those that need Chromium are skipped where there is none.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from importlib import resources

import pytest

from tests.browser import CHROMIUM, DESKTOP, PHONE, asked
from tests.doc_blocks import ROOT
from tests.site_links import Page, dead, foreign, read_site
from voltana import ports, values

pytestmark = pytest.mark.browser
SEEN = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
AXE = resources.files("axe_core_python").joinpath("axe.min.js")
RULES = ("wcag2a", "wcag2aa")
LOOKED_AT = (
    "index.html", "concepts.html", "tutorials/policy.html", "notebooks/guarantee.html",
    "fidelity.html", "guarantee.html", "api/values.html", "comparison.html", "sglang.html",
)  # fmt: skip


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        check=False, capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return read_site(site)


@pytest.fixture(scope="session")
def served(site):
    """Address of the site on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            """Say nothing."""

        def do_GET(self):
            """A request for a pause is answered late: a browser's virtual time waits for it."""
            if self.path.startswith("/pause"):
                time.sleep(0.25)
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def handle(self):
            with contextlib.suppress(ConnectionError):
                super().handle()

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_nothing_is_loaded_from_elsewhere(pages, site):
    assert len(pages) > 50
    assert foreign(pages, site) == []


def test_every_link_and_anchor_leads_somewhere(pages, site):
    assert sum(len(page.links) for page in pages.values()) > 2000
    assert dead(pages, site) == []


def test_the_checks_see_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">no page</a><a href="#none">no anchor</a><a href="a.html#here">fine</a>'
        '<p id="here"><img src="//elsewhere.example/x.png"><script src="https://x.example/"></script>'
    )
    (tmp_path / "a.css").write_text("p { background: url(https://x.example/y.png) }")
    pages = read_site(tmp_path)
    assert isinstance(pages["a.html"], Page)
    assert dead(pages, tmp_path) == ["a.html: b.html", "a.html: #none"]
    assert len(foreign(pages, tmp_path)) == 3


@pytest.mark.parametrize(("module", "page"), [(values, "values"), (ports, "ports")])
def test_the_reference_shows_every_value_and_port(pages, module, page):
    shown = set().union(*(read.anchors for name, read in pages.items() if name.startswith("api/")))
    ours = {
        f"{thing.__module__}.{name}"
        for name, thing in inspect.getmembers(module, inspect.isclass)
        if thing.__module__.startswith("voltana") and not name.startswith("_")
    }
    assert len(ours & pages[f"api/{page}.html"].anchors) > 15
    assert ours - shown <= {"voltana.viability_account.ViabilityAccount"}


@SEEN
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_a_page_fits_its_window_and_can_be_read(site, served, tmp_path, page, size):
    """No page scrolls sideways, no picture is missing, no rule of accessibility is broken."""
    script = AXE.read_text().replace("</script", "<\\/script")
    found = asked(
        site / page,
        f"{script}; const found = await axe.run(document.querySelector('article'), "
        f"{{runOnly: {json.dumps(RULES)}}});"
        "const lost = [...document.images].filter((i) => i.complete && !i.naturalWidth);"
        "return {wide: document.scrollingElement.scrollWidth - window.innerWidth,"
        "lost: lost.map((i) => i.src), text: document.querySelector('article').innerText.length,"
        "broken: found.violations.map((v) => [v.id, v.nodes[0].html.slice(0, 200)])};",
        folder=tmp_path,
        size=size,
        served=f"{served}/{page.rpartition('/')[0]}".rstrip("/"),
    )
    assert found["wide"] <= 0
    assert found["lost"] == []
    assert found["text"] > 800
    assert found["broken"] == []


@SEEN
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("DeadlineBucket", "api/values.html"),
        ("lease watchdog", "concepts.html"),
        ("batch boundary", "admission.html"),
    ],
)
def test_the_search_finds(site, served, tmp_path, words, page):
    found = asked(
        site / "index.html",
        "const box = document.querySelector('.md-search__input');"
        "document.querySelector('#__search').click();"
        f"box.focus(); box.value = {json.dumps(words)};"
        "for (let n = 0; n < 60; n++) {"
        "for (const kind of ['input', 'keyup']) "
        "box.dispatchEvent(new Event(kind, {bubbles: true}));"
        "await fetch(`/pause?${n}`);"
        "const hits = [...document.querySelectorAll('.md-search-result__link')];"
        "if (hits.length) return hits.map((a) => new URL(a.href).pathname); } return [];",
        folder=tmp_path,
        served=served,
    )
    assert f"/{page}" in found
