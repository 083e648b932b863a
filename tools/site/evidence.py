"""Makes the figures of docs/reproduce.md, docs/reproduce-findings.md and docs/report.md anew.

    python -m tools.site.evidence                 # all but what is searched: see `make evidence`
    python -m tools.site.evidence levels report   # some of it
    python -m tools.site.evidence main-result     # the whole main result, with the search anew

The whole without its search runs the clocks of best-fixed that the last search found
(`best_fixed_clocks.csv`), so that every column is of the code as it is.

What was run stays in ``out/evidence``, so that the same command goes on where it was killed. Text
outside the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` stays as it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import CHROMIUM, DESKTOP, PHONE, screenshot

ROOT = Path(__file__).parents[2]
OUT, DOCS = ROOT / "out" / "evidence", ROOT / "docs"
IMAGES = DOCS / "images"
PUBLISHED = ROOT.parent / "shared" / "data" / "published-figure"

CLOCKS = Path(__file__).parent / "best_fixed_clocks.csv"
"""What the last search of the whole main result found."""

FINDINGS = {
    name: ("reproduce-findings.md", (name, "--quick"))
    for name in ("levels", "windows", "slo", "u-curve", "boundaries")
}
MAIN = {
    "quick": ("reproduce.md", ("main-result", "--quick")),
    "whole": ("reproduce.md", ("main-result", "--clocks", str(CLOCKS))),
    "main-result": ("reproduce.md", ("main-result",)),
}
"""By what the user calls it: the page, and what `voltana reproduce` is given."""

ALT = {
    "levels": "saving and attainment by sets of levels",
    "windows": "saving and attainment of a window of 5 s and of an iteration",
    "slo": "saving and attainment over the threshold of the ITL",
    "u-curve": "energy over the clock by board, phase and role",
    "boundaries": "latency and energy over the batch, and savings of routers",
    "quick": "energy and attainment over the rate, three models, two workloads",
    "whole": "energy and attainment over the rate, with the published points",
}

SAME_AS = {"main-result": "whole"}
"""The search is added to the sweep, the figure and the table of the whole without it."""

AS_PUBLISHED = "whole"
"""Runs as long as the published ones, whose points can stand beside it."""

RUN = ("--duration", "30", "--price", "0.25", "--carbon", "350")
DAY = ("--arrival", "diurnal", "--rate", "4", "--duration", "1800", "--price", "0.25",
       "--policy", "static-max,voltana", "--carbon", "350")  # fmt: skip
SHOTS = {
    "desktop": ("run", DESKTOP, False),
    "dark": ("run", DESKTOP, True),
    "phone": ("run", PHONE, False),
    "sweep": ("quick", DESKTOP, False),
    "sweep-phone-dark": ("quick", PHONE, True),
    "day": ("day", DESKTOP, False),
    "day-phone-dark": ("day", PHONE, True),
}
"""By the image's name: whose report, the window, and whether it is dark."""

QUALITY = 82


def reproduce(name: str) -> None:
    """Run a finding and put its figure and table into its page."""
    page, given = (FINDINGS | MAIN)[name]
    searched = name in SAME_AS
    name = SAME_AS.get(name, name)
    folder, beside = OUT / name, name == AS_PUBLISHED and PUBLISHED.is_dir()
    drawn = ("--published", str(PUBLISHED)) if beside else ()
    voltana("reproduce", *given, *drawn, "--out", str(folder))
    if searched:
        shutil.copy(folder / "clocks.csv", CLOCKS)
    save(folder / "figure.png", IMAGES / f"reproduce-{name}.webp")
    drawing = f"![{ALT.get(name, name)}](images/reproduce-{name}.webp)"
    put(DOCS / page, name, f"{drawing}\n\n" + (folder / "table.md").read_text(encoding="utf-8"))


def reports() -> None:
    """Make the reports of a run, a sweep and half an hour of a day, and photograph them."""
    if CHROMIUM is None:
        raise SystemExit("no Chromium here: make chromium")
    voltana("simulate", *RUN, "--out", str(OUT / "run"))
    voltana("simulate", *DAY, "--out", str(OUT / "day"))
    for what in ("run", "quick", "day"):
        voltana("report", str(OUT / what))
    for name, (what, size, dark) in SHOTS.items():
        with tempfile.TemporaryDirectory() as kept:
            taken = Path(kept) / "taken.png"
            page = OUT / what / "report.html"
            screenshot(page, taken, profile=Path(kept) / "profile", dark=dark, size=size)
            save(taken, IMAGES / f"report-{name}.webp")


def voltana(*given: str) -> None:
    """Run the command as a user does."""
    subprocess.run([sys.executable, "-m", "voltana", *given], check=True, cwd=ROOT)


def save(source: Path, target: Path) -> None:
    """A picture as WebP."""
    with Image.open(source) as image:
        image.convert("RGB").save(target, quality=QUALITY, method=6)
    print(f"made {target.relative_to(ROOT)}", flush=True)


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        SystemExit: If it has none.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before = page.read_text(encoding="utf-8")
    after, count = re.subn(
        f"({re.escape(begin)}\n).*?({re.escape(end)})",
        lambda found: f"{found[1]}{text.strip()}\n{found[2]}",
        before,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{page.relative_to(ROOT)} must have {begin} and {end} once")
    page.write_text(after, encoding="utf-8")


def main() -> None:
    """Make what is named, or all but the search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*FINDINGS, *MAIN, "report"]
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(known))
    asked = parser.parse_args().what or [name for name in known if name != "main-result"]
    if unknown := set(asked) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    IMAGES.mkdir(exist_ok=True)
    for name in asked:
        if name == "report":
            reports()
        else:
            reproduce(name)


if __name__ == "__main__":
    main()
