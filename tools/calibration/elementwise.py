"""Row-wise kernels (norm, activation, rotary embedding) of measured transformer layers.

Llama-2-70B is held out. The residual addition is not among the rows: engines fuse it with the norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tools.calibration import clocks
from tools.calibration.data import rows
from tools.calibration.fitted import Fitted
from voltana.plant.cost import FASTEST
from voltana.plant.elementwise import elementwise_cost
from voltana.plant.fit.least_squares import describe, fit_log_times, with_section
from voltana.plant.hardware import load_hardware
from voltana.plant.operators import Elementwise

if TYPE_CHECKING:
    from voltana.values import FloatArray

FITTED_FILES = {
    "a100-sxm4-80gb": ("a100__Llama-2-7b-hf__mlp.csv.gz", "a100__Meta-Llama-3-8B__mlp.csv.gz"),
    "h100-sxm": ("h100__Llama-2-7b-hf__mlp.csv.gz",),
}
HELD_OUT_FILES = {
    "a100-sxm4-80gb": ("a100__Llama-2-70b-hf__mlp.csv.gz",),
    "h100-sxm": ("h100__Llama-2-70b-hf__mlp.csv.gz",),
}
START = {"bandwidth_share": 0.5, "row_s": 5e-10, "kernel_s": 2e-6}


def fit() -> list[Fitted]:
    """Coefficients of the section ``elementwise``.

    Its ``issue_share`` comes from the clocks first, for times at one clock do not tell it.
    """
    share, text = clocks.fit_issue_share()
    return [_fit(name, share, text) for name in FITTED_FILES]


def _fit(name: str, issue_share: float, clocks_text: str) -> Fitted:
    parts = [_kernels(file, 1.0) for file in FITTED_FILES[name]]
    parts += [_kernels(file, 0.0) for file in HELD_OUT_FILES[name]]
    tokens, elements, row, measured, train = np.concatenate(parts, axis=1)
    hardware = load_hardware(name)
    operator = Elementwise(name="measured", elements=elements, row=row)

    def model(values: dict[str, float]) -> FloatArray:
        board = with_section(hardware, "elementwise", issue_share=issue_share, **values)
        return np.asarray(elementwise_cost(board, operator, tokens, 2.0).seconds(FASTEST))

    values = fit_log_times(model, measured, train, START)
    text = describe(model(values), measured, train)
    return Fitted(
        hardware=name,
        section="elementwise",
        values=values | {"issue_share": issue_share},
        source="vidur compute profiles, Llama-2-7B, Llama-3-8B (A100 only), Llama-2-70B (held out)",
        residual=f"{text}; issue_share: {clocks_text} (all on A100)",
        valid="1 to 32768 tokens, rows of 1024 to 28672 values",
    )


def _kernels(file: str, weight: float) -> FloatArray:
    """Rows (tokens, elements, row, seconds, weight) of all kernels in a file."""
    found = []
    for line in rows(f"vidur-profiles/{file}"):
        boards, tokens = int(line["num_tensor_parallel_workers"]), int(line["num_tokens"])
        hidden, heads = int(line["n_embd"]), int(line["n_head"])
        width = int(line["n_expanded_embd"]) / boards
        kv_heads = max(int(line["n_kv_head"]), boards)
        rotary = (heads + kv_heads) / boards * hidden / heads
        for kernel, elements, row in (
            ("input_layernorm", 3 * hidden, hidden),
            ("mlp_act", 3 * width, width),
            ("attn_rope", 2 * rotary, rotary / 2),
        ):
            measured = float(line[f"time_stats.{kernel}.median"]) * 1e-3
            found.append((tokens, elements, row, measured, weight))
    return np.array(found).T
