"""What a fitted profile says of itself: where its numbers come from, and how well they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.plant.coefficients import Provenance
from voltana.plant.hardware import Knowledge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.fit.board import Coefficient, FittedBoard
    from voltana.plant.fit.measurements import Measurement
    from voltana.plant.hardware import HardwareProfile


def described(
    fitted: FittedBoard,
    rows: Sequence[Measurement],
    *,
    base: HardwareProfile,
    name: str,
    source: str,
) -> HardwareProfile:
    """The fitted board under a name of its own, with every section's provenance.

    Args:
        fitted: What came of the fit.
        rows: What it was fitted to.
        base: What it started from.
        name: Of the new profile.
        source: Of the measurements, such as the name of their file and the model.
    """
    board = fitted.hardware.model_copy(update={"name": name})
    residual = "; ".join(
        f"{each.what}: {100 * each.median:.2g} % median, {100 * each.bias:+.2g} % bias, "
        f"{each.rows} rows"
        for each in fitted.residuals
    )
    for section in sorted({each.name.partition(".")[0] for each in fitted.coefficients}):
        of = [each for each in fitted.coefficients if each.name.startswith(f"{section}.")]
        words = {
            "source": f"voltana plant fit, {source}; start: {base.name}",
            "residual": f"{residual}; {_errors(of)}",
            "valid": f"{_range(rows)}; held as in {base.name}: what is not listed under residual",
        }
        if section == "power":
            board = board.model_copy(update={section: board.power.model_copy(update=words)})
            continue
        own = getattr(board, section)
        told = own.model_copy(update={"provenance": Provenance(**words)})
        board = board.model_copy(update={section: told})
    return board.model_copy(update={"knowledge": _knowledge(fitted, rows, base, source)})


def _errors(coefficients: Sequence[Coefficient]) -> str:
    return ", ".join(
        f"{each.name} within {100 * each.error:.2g} %"
        if each.told
        else f"{each.name} not told by the measurements"
        for each in coefficients
    )


def _range(rows: Sequence[Measurement]) -> str:
    clocks = [row.clock_mhz for row in rows]
    parts = [f"{min(clocks):g}-{max(clocks):g} MHz"]
    for phase in ("decode", "prefill"):
        of = [row for row in rows if row.phase == phase]
        if of:
            batches, contexts = [row.batch for row in of], [row.context for row in of]
            parts.append(
                f"{phase} of {min(batches)}-{max(batches)} requests with {min(contexts)}-"
                f"{max(contexts)} tokens"
            )
    return ", ".join(parts)


def _knowledge(
    fitted: FittedBoard, rows: Sequence[Measurement], base: HardwareProfile, source: str
) -> Knowledge:
    measured = sorted({each.what for each in fitted.residuals})
    untold = [each.name for each in fitted.coefficients if not each.told]
    inferred = [f"what was not fitted: as in {base.name}"]
    inferred += [f"not told by the measurements: {', '.join(untold)}"] if untold else []
    unknown = [
        f"{phase}: was not measured"
        for phase in ("decode", "prefill", "idle")
        if not any(row.phase == phase for row in rows)
    ]
    if not any(each.name.startswith("power.") for each in fitted.coefficients):
        unknown.append("power: was not measured")
    return Knowledge(
        measured=(f"{'; '.join(measured)}: {_range(rows)} ({source})",),
        inferred=tuple(inferred),
        unknown=tuple(unknown) or (f"whatever lies outside {_range(rows)}",),
    )
