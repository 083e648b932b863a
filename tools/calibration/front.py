"""What is possible where measurements contradict each other: ``python -m tools.calibration.front``.

Two coefficients of the A100 are contested. The share of a byte's energy that does not follow the
core's voltage (``power.byte_fixed_share``) decides what low clocks save, and the published panels
ask for different ones. How much of decode attention the SMs bound (``backend_sm_share``) decides
how decode reacts to the clock: published knees ask for little, exponents of whole requests for
much. This sweeps both over a grid, holds every plant against all of these measurements, and tells
which plants no other beats in all respects. The lengths, thresholds and host of the published
figure stay as they are; a second table moves some of them, one at a time, and a third says what
Ministral-3B's saving is under other thresholds, which are not published. Takes a quarter of an
hour; writes tables and plot into docs/fidelity-front.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from benchmarks.documents import put_between
from benchmarks.fidelity import quotations
from benchmarks.fidelity.published import (
    BOARD,
    DATASETS,
    METRICS,
    MINISTRAL,
    PANELS,
    PUBLISHED_SLO,
    STATIC,
    fitted_lengths,
    published_points,
    run_panel,
    saving_error,
    savings,
    simulated_points,
)
from benchmarks.fidelity.quoted import REQUESTS, decode_exponent, whole_exponent
from tools.calibration.data import DATA
from tools.calibration.front_page import apart, draw, ministral_table, table, variant_table
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.values import Load

if TYPE_CHECKING:
    from benchmarks.fidelity.published import Panels
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.workload.lengths import LengthDistribution

FIXED_SHARES = (0.45, 0.65, 0.85, 1.0)
SM_SHARES = (0.3, 0.6, 1.0)
EVERY = 2
"""Every how many of the published rates is simulated, counted from the highest."""

DEMO_GRAPHS = (1, 2, 4, *range(8, 129, 8), 160, 192, 224, 256, *range(320, 2049, 64))
"""Batches for which the published demo's decode servers capture CUDA graphs."""

ITL_MS = (65.0, 20.0, 15.0, 12.0, 10.0)
"""Thresholds that Ministral-3B may have had."""

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "fidelity-front.md"
PLOT = ROOT / "docs" / "images" / "fidelity-front.png"
BEGIN = "<!-- front: begin (written by `python -m tools.calibration.front`) -->"
END = "<!-- front: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One plant, and how far it is from each of the measurements that contradict each other.

    Attributes:
        what: What differs from the profile and the published setup in use.
        fixed_share: ``power.byte_fixed_share``.
        sm_share: ``attention_decode.backend_sm_share``.
        saving: Static saving by panel, simulated minus published, in points.
        exponents: Exponent of whole requests by batch, simulated minus measured.
        decode_alone: Exponent of decode alone at batch 64 and 1,000 tokens each; nothing measured.
        attainment: Mean absolute error of the attainments of Llama-3.1-8B under static clocks, in
            points.
    """

    what: str
    fixed_share: float
    sm_share: float
    saving: dict[str, float]
    exponents: dict[str, float]
    decode_alone: float
    attainment: float

    @property
    def bias(self) -> float:
        """Mean error of the savings over panels; above 0 the plant saves more than was measured."""
        return float(np.mean(list(self.saving.values())))

    @property
    def objectives(self) -> tuple[float, ...]:
        """What should be small: each a distance from measurements of its own."""
        return (
            *(abs(error) for error in self.saving.values()),
            max(abs(error) for error in self.exponents.values()),
            self.attainment,
        )


def main() -> None:
    """Sweep, print, and write what was found into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="figures; read if there, written otherwise")
    path = parser.parse_args().json
    if path and path.exists():
        found = json.loads(path.read_text())
    else:
        found = {"grid": sweep(), "variants": variants(), "ministral": ministral()}
    if path:
        path.write_text(json.dumps(found, indent=1))
    grid, others = ([Plant(**plant) for plant in found[name]] for name in ("grid", "variants"))
    parts = [table(grid), apart(grid), "What else was tried, each alone:", variant_table(others)]
    put_between(DOCUMENT, BEGIN, END, "\n\n".join([*parts, ministral_table(found["ministral"])]))
    draw(grid, PLOT)


def sweep() -> list[dict[str, Any]]:
    """Measure every plant of the grid, and say how far it is."""
    console, plants = Console(stderr=True), []
    for fixed, sm in itertools.product(FIXED_SHARES, SM_SHARES):
        hardware = moved(load_hardware(BOARD), fixed, sm)
        plants.append(asdict(measure(f"s {fixed:g}, SM share {sm:g}", hardware, fitted_lengths())))
        console.print(plants[-1])
    return plants


def variants() -> list[dict[str, Any]]:
    """Measure the profile in use with one other thing changed at a time."""
    board, lengths = load_hardware(BOARD), fitted_lengths()
    graphs = board.launch.model_copy(update={"graph_batches": DEMO_GRAPHS})
    serial = board.launch.model_copy(update={"iteration_s": 4e-3})
    tried = [
        ("as in use", board, lengths),
        (
            "CUDA graphs of decode as the published demo captures them, to 2,048 requests",
            board.model_copy(update={"launch": graphs}),
            lengths,
        ),
        (
            "the device waits 4 ms an iteration for its host, as without overlap",
            board.model_copy(update={"launch": serial}),
            lengths,
        ),
    ]
    return [asdict(measure(*one)) for one in tried]


def ministral() -> dict[str, list[float]]:
    """Saving of voltana-v0.1 for Ministral-3B by ITL threshold in ms, at each of the rates."""
    rates, lengths = quotations()["ministral"]["rates_rps"], fitted_lengths()[MINISTRAL.dataset]
    found = {}
    for itl_ms in ITL_MS:
        slo = replace(PUBLISHED_SLO, itl_s=itl_ms / 1e3)
        panel = {
            ("", policy): run_panel(MINISTRAL, policy, rates, lengths, slo=slo)
            for policy in ("f1410", "voltana")
        }
        found[f"{itl_ms:g}"] = list(savings(panel, "", "voltana").values())
    return found


def moved(hardware: HardwareProfile, fixed_share: float, sm_share: float) -> HardwareProfile:
    """A board with other values of the contested coefficients."""
    power = hardware.power.model_copy(update={"byte_fixed_share": fixed_share})
    decode = hardware.attention_decode.model_copy(update={"backend_sm_share": sm_share})
    return hardware.model_copy(update={"power": power, "attention_decode": decode})


def measure(what: str, hardware: HardwareProfile, lengths: dict[str, LengthDistribution]) -> Plant:
    """Hold one plant against everything."""
    published = {key: points[::-EVERY][::-1] for key, points in published_points(DATA).items()}
    simulated = simulated_points(published, lengths, STATIC, hardware=hardware)
    quoted = quotations()["decode_exponent"]
    plant = PlantModel(hardware, load_model("llama-3.1-8b"))
    return Plant(
        what=what,
        fixed_share=hardware.power.byte_fixed_share,
        sm_share=hardware.attention_decode.backend_sm_share,
        saving={name: saving_error(published, simulated, name, "f1005") for name in PANELS},
        exponents={
            str(batch): float(np.mean([whole_exponent(plant, batch, *n) for n in REQUESTS]))
            - measured
            for batch, measured in zip(quoted["batches"], quoted["exponents"], strict=True)
        },
        decode_alone=decode_exponent(plant, Load.decode(64, 64_000)),
        attainment=attainment_error(published, simulated),
    )


def attainment_error(published: Panels, simulated: Panels) -> float:
    """Mean absolute error over the visible attainments of static clocks, in points."""
    errors = [
        100 * abs(getattr(ours, metric) - getattr(theirs, metric))
        for name, policy, metric in itertools.product(DATASETS, STATIC, METRICS)
        for theirs, ours in zip(published[name, policy], simulated[name, policy], strict=True)
        if math.isfinite(getattr(theirs, metric))
    ]
    return sum(errors) / len(errors)


if __name__ == "__main__":
    main()
