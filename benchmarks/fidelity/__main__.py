"""`make fidelity`: run all sections, print the table, and write it into docs/fidelity.md."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks import fidelity
from benchmarks.documents import markdown_table, put_between
from benchmarks.fidelity import known_misses, verdicts
from tools.calibration.data import DATA
from voltana.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from benchmarks.fidelity import Row

DOCUMENT = Path(__file__).parents[2] / "docs" / "fidelity.md"
REFUSED = 2
BEGIN = "<!-- fidelity: begin (written by `make fidelity`) -->"
END = "<!-- fidelity: end -->"


def main() -> int:
    """Run the sections named on the command line, or all of them and write the document.

    Returns:
        0 if every target is met, but for those that are known to be missed, or there is nothing to
        compare with; 1 otherwise, and where the list of known misses is itself wrong; 2 if the
        comparison cannot be made, in which case the document stays as it is.
    """
    try:
        return _compare(sys.argv[1:])
    except ConfigError as error:
        sys.stderr.write(f"fidelity: {error}\n")
        return REFUSED


def _compare(wanted: list[str]) -> int:
    sections, known = _sections(), known_misses()
    for name in wanted:
        if name not in sections:
            raise unknown_name("section", name, sections)
    if not DATA.is_dir():
        print("fidelity: skipped, for the measurements in ../shared/data are absent")
        return 0
    rows = [row for name in sections if not wanted or name in wanted for row in _run(name)]
    _print(rows)
    if not wanted:
        _write(rows)
    if wanted:  # what the other sections miss is not looked for
        known = {name: known[name] for name in known.keys() & {(r.section, r.what) for r in rows}}
    remarks, complaints = verdicts(rows, known)
    print(*remarks, *complaints, sep="\n")
    return 1 if complaints else 0


def _sections() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(fidelity.__path__)]
    return sorted(
        name
        for name in names
        if not name.startswith("_")
        and hasattr(importlib.import_module(f"{fidelity.__name__}.{name}"), "run")
    )


def _run(name: str) -> list[Row]:
    """Rows of a section; what its measurements or quotations lack is said in one line."""
    module = importlib.import_module(f"{fidelity.__name__}.{name}")
    try:
        rows: list[Row] = module.run(DATA)
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise ConfigError(
            f"section {name} cannot be compared ({error!r}): its part of {DATA} or of quoted.toml "
            "must be there and whole. Restore it."
        ) from error
    return rows


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if not row.target else "yes" if row.meets else "NO"
    figure = f"{row.measured:.3g}" if row.measured < 100 else f"{row.measured:.0f}"
    return row.section, row.what, row.target, f"{figure} {row.unit}", verdict, str(row.rows)


HEADS = ("section", "what", "target", "measured", "met", "rows")


def _print(rows: list[Row]) -> None:
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=160).print(table)


def _write(rows: list[Row]) -> None:
    put_between(DOCUMENT, BEGIN, END, markdown_table(HEADS, [_cells(row) for row in rows]))


if __name__ == "__main__":
    sys.exit(main())
