"""Sums over NVLink and transfers between two boards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tools.calibration.data import columns, rows
from tools.calibration.fitted import Fitted
from tools.calibration.gemm import SETS
from voltana.plant.collective import all_reduce_s, transfer_s
from voltana.plant.fit.least_squares import describe, fit_log_times, with_section
from voltana.plant.hardware import load_hardware

if TYPE_CHECKING:
    from voltana.values import FloatArray

TRANSFERS = {
    "a100-sxm4-80gb": "a100_dgx__send_recv.csv.gz",
    "h100-sxm": "h100_dgx__send_recv.csv.gz",
}
SUM_START = {"one_shot_s": 5e-6, "two_shot_s": 1.2e-5, "ring_s": 3e-5, "bandwidth_share": 0.6}
TRANSFER_START = {"transfer_s": 1e-5, "transfer_bandwidth_share": 0.7}


def fit() -> list[Fitted]:
    """Coefficients of the section ``collective``."""
    return [_fit(name) for name in SETS]


def _fit(name: str) -> Fitted:
    sums, sums_text = _fit_sums(name)
    transfers, transfers_text = _fit_transfers(name)
    return Fitted(
        hardware=name,
        section="collective",
        values=sums | transfers,
        source="sums: aiconfigurator-core 0.12.0, custom_allreduce; transfers: vidur, send_recv",
        residual=f"sums: {sums_text}; transfers: {transfers_text}",
        valid="2 to 8 boards of one NVLink host; messages of 256 B to 1 GB",
    )


def _fit_sums(name: str) -> tuple[dict[str, float], str]:
    """Kernels inside a CUDA graph: of each two rows the faster one. Four boards are held out."""
    table = rows(f"{SETS[name]}/custom_allreduce.csv.gz")
    boards, elements, measured = columns(table, "num_gpus", "message_size", "latency")
    keys, index = np.unique(np.stack([boards, elements]), axis=1, return_inverse=True)
    seconds = np.full(keys.shape[1], np.inf)
    np.minimum.at(seconds, index, measured * 1e-3)
    counts, message_bytes = keys[0], 2.0 * keys[1]
    hardware = load_hardware(name)

    def model(values: dict[str, float]) -> FloatArray:
        board = with_section(hardware, "collective", **values)
        return all_reduce_s(board, message_bytes, counts)

    train = np.where(counts == 4, 0.0, 1.0)
    values = fit_log_times(model, seconds, train, SUM_START)
    return values, describe(model(values), seconds, train)


def _fit_transfers(name: str) -> tuple[dict[str, float], str]:
    """Two boards of one host; every third size is held out."""
    table = [
        row for row in rows(f"vidur-profiles/{TRANSFERS[name]}") if row["devices_per_node"] == "2"
    ]
    size, measured = columns(table, "size", "time_stats.send_recv.median")
    hardware, measured = load_hardware(name), measured * 1e-3

    def model(values: dict[str, float]) -> FloatArray:
        return transfer_s(with_section(hardware, "collective", **values), size)  # type: ignore[arg-type,return-value]

    train = np.where(np.arange(len(size)) % 3 == 0, 0.0, 1.0)
    values = fit_log_times(model, measured, train, TRANSFER_START)
    return values, describe(model(values), measured, train)
