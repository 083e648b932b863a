"""Puts what the last `make demo` and `voltana analyze` made into the documentation.

`make docs-figures` runs all three.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "out" / "demo"
ANALYSIS = ROOT / "out" / "analysis"
ANALYSIS_IMAGES = ("step.png", "bode.png", "nyquist.png")
IMAGES = ("comparison.png", "timeline-voltana.png")
BEGIN, END = "<!-- demo:begin -->\n", "<!-- demo:end -->"


def main() -> None:
    """Copy tables and plots; everything outside the markers stays as it is."""
    report = (DEMO / "report.md").read_text(encoding="utf-8")
    tables = report.partition("\n\n")[2].partition("\n![")[0].strip()
    first = "\n\n".join(tables.split("\n\n")[:2])  # the table, and what it is of
    _put(ROOT / "README.md", first)
    _put(ROOT / "docs" / "tutorials" / "simulate.md", tables)
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    for name in IMAGES:
        shutil.copyfile(DEMO / name, images / name)
    for name in ANALYSIS_IMAGES:
        shutil.copyfile(ANALYSIS / name, images / f"analysis-{name}")


def _put(page: Path, text: str) -> None:
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}{text}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
