"""Puts what the last `make demo` and `voltana analyze` made into the documentation.

`make docs` runs all three.
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
    """Copy table and plots; everything outside the markers stays as it is."""
    report = (DEMO / "report.md").read_text(encoding="utf-8")
    table = report.partition("\n\n")[2].partition("\n![")[0].strip()
    readme = ROOT / "README.md"
    head, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    readme.write_text(f"{head}{BEGIN}{table}\n{END}{tail}", encoding="utf-8")
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    for name in IMAGES:
        shutil.copyfile(DEMO / name, images / name)
    for name in ANALYSIS_IMAGES:
        shutil.copyfile(ANALYSIS / name, images / f"analysis-{name}")


if __name__ == "__main__":
    main()
