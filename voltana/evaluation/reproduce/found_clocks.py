"""The fixed clocks that a search found, kept so that they can be run anew without it.

A search takes some 30 simulations, what it found one. The file is a list as `voltana sweep --list`
takes it: a scenario a row, whose policies are static-max and the clocks as ``fixed:MHZ/MHZ``.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError
from voltana.evaluation import best_fixed
from voltana.evaluation.bound.compare import MARGIN
from voltana.evaluation.sweep.fields import POLICIES
from voltana.evaluation.sweep.rows_file import read_rows
from voltana.policies.fixed import fixed_name
from voltana.policy import FIXED_PREFIX
from voltana.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from voltana.evaluation.sweep.work import Row

    Served = tuple[Any, ...]
    """The values of `SERVED`."""

CLOCKS = "clocks.csv"

SERVED = ("cluster.model", "workload.name", "workload.rate_rps", "workload.duration_s", "seed")
"""What clocks were searched for."""

_TEXTS = SERVED[:2]
_ROUNDING = 1e-9
_KEPT = ("ttft_attainment", "itl_attainment", "itl_token_attainment")


def write_clocks(rows: Iterable[Row], folder: Path) -> None:
    """Write what searches found into a folder; nothing where none were made.

    Args:
        rows: Of a sweep.
        folder: Of the sweep.

    Raises:
        ConfigError: If it cannot be written.
    """
    found = [row for row in rows if row["policy"] == best_fixed.NAME]
    if not found:
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*SERVED, POLICIES])
    for row in found:
        clocks = fixed_name(row["chosen_prefill_mhz"], row["chosen_decode_mhz"])
        policies = json.dumps([best_fixed.REFERENCE, clocks])
        table.writerow([*(row[name] for name in SERVED), policies])
    write_whole(folder / CLOCKS, text.getvalue().encode())


def read_clocks(path: Path) -> dict[Served, str]:
    """The policy that was found for each trace.

    Raises:
        ConfigError: If the file is none that `write_clocks` wrote, or has a trace twice.
    """
    found: dict[Served, str] = {}
    for number, row in enumerate(read_rows(path), start=1):
        where = f"row {number} of {str(path)!r}"
        missing = next((name for name in (*SERVED, POLICIES) if name not in row), None)
        if missing is not None:
            raise ConfigError(
                f"{where} has no {missing}: must have {', '.join((*SERVED, POLICIES))}. Name the "
                f"{CLOCKS} that 'voltana reproduce main-result' wrote."
            )
        for name in SERVED:
            _check_kind(f"{where}: {name}", row[name], text=name in _TEXTS)
        match row[POLICIES]:
            case [best_fixed.REFERENCE, str(name)] if name.startswith(FIXED_PREFIX):
                served = tuple(row[name] for name in SERVED)
            case policies:
                raise ConfigError(
                    f"{where}: {POLICIES} = {policies!r:.80} is not allowed: must be "
                    f'["{best_fixed.REFERENCE}", "{FIXED_PREFIX}MHZ/MHZ"]. Search again.'
                )
        if served in found:
            raise ConfigError(f"{where} is of the same trace as one before it. Remove one of them.")
        found[served] = name
    return found


def _check_kind(field: str, value: object, *, text: bool) -> None:
    is_one = isinstance(value, str) if text else type(value) in {int, float}
    if not is_one:
        raise ConfigError(
            f"{field} = {value!r:.80} is not allowed: must be {'a name' if text else 'a number'}, "
            f"as {CLOCKS} has it. Search again."
        )


def clocks_of(found: Mapping[Served, str], served: Served) -> str:
    """The policy that was found for a trace.

    Raises:
        ConfigError: If none was.
    """
    if served not in found:
        asked = ", ".join(f"{name} = {value}" for name, value in zip(SERVED, served, strict=True))
        raise ConfigError(
            f"the clocks of an earlier search hold none for {asked}. Leave --clocks out, which "
            "searches them, or add --no-search."
        )
    return found[served]


def as_searched(rows: Sequence[Row]) -> list[Row]:
    """Rows in which clocks that were given go by the name of the search that found them.

    Whether they keep what the better reference keeps is told anew: `chosen_keeps_slo`. References
    are static-max and the fastest clocks, as in a search; these stand before what was found, and
    are left out.
    """
    runs: dict[object, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    return [told for run in runs.values() for told in _as_searched(run)]


def _as_searched(run: Sequence[Row]) -> list[Row]:
    fixed = [row for row in run if row["policy"].startswith(FIXED_PREFIX)]
    if not fixed:
        return list(run)
    others = [row for row in run if row not in fixed]
    references = [*fixed, *(row for row in others if row["policy"] == best_fixed.REFERENCE)]
    keeps = all(_keeps(fixed[-1][name], [row[name] for row in references]) for name in _KEPT)
    return [*others, {**fixed[-1], "policy": best_fixed.NAME, "chosen_keeps_slo": keeps}]


def _keeps(ours: float | None, references: Iterable[float | None]) -> bool:
    """Whether a share is within the search's margin of the references'; one of nothing is."""
    best = max((kept for kept in references if kept is not None), default=None)
    return ours is None or best is None or ours >= best - MARGIN - _ROUNDING
