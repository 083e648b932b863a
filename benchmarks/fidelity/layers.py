"""Times of one transformer layer without attention: vidur's measured kernels, added up.

The layer is composed from the plant's operators at the highest clock and compared with the sum of
the measured medians of the same kernels, for each tensor-parallel width and number of tokens. The
figure is the mean absolute relative error over all those pairs. The coefficients of products come
from other measurements; those of norm, activation and rotary embedding were fitted to the 7B and 8B
models of this set.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row, read_table
from voltana.plant import load_hardware
from voltana.plant.cost import FASTEST
from voltana.plant.elementwise import elementwise_cost
from voltana.plant.gemm import gemm_cost
from voltana.plant.operators import Elementwise, Gemm

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.plant.hardware import HardwareProfile
    from voltana.values import FloatArray

SECTION = "Layers composed from operators (vidur)"
BOARDS = {
    "a100": ("a100-sxm4-80gb", ("Llama-2-7b-hf", "Meta-Llama-3-8B", "Llama-2-70b-hf")),
    "h100": ("h100-sxm", ("Llama-2-7b-hf", "Llama-2-70b-hf")),
}
TARGETS = {"a100": 12.0, "h100": 10.0}
BIAS_TARGETS = {"h100": 5.0}
KERNELS = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)
_ELEMENT_BYTES = 2.0


def run(data_dir: Path) -> list[Row]:
    """Error for each board, and for each model on it."""
    found = []
    for board, (name, models) in BOARDS.items():
        hardware = load_hardware(name)
        errors = {model: _errors(hardware, board, model, data_dir) for model in models}
        together = np.concatenate(list(errors.values()))
        found.append(_row(f"{board}: all", together, TARGETS[board]))
        found.append(_bias_row(board, together))
        found += [_row(f"{board}: {model}", error, None) for model, error in errors.items()]
    return found


def _row(what: str, errors: FloatArray, target: float | None) -> Row:
    return Row(
        section=SECTION,
        what=f"{what}: mean absolute error of a layer's time",
        measured=100.0 * float(np.mean(np.abs(errors))),
        high=target,
        rows=len(errors),
    )


def _bias_row(board: str, errors: FloatArray) -> Row:
    target = BIAS_TARGETS.get(board)
    return Row(
        section=SECTION,
        what=f"{board}: all: mean error of a layer's time, signed",
        measured=100.0 * float(np.mean(errors)),
        low=None if target is None else -target,
        high=target,
        rows=len(errors),
    )


def _errors(hardware: HardwareProfile, board: str, model: str, data_dir: Path) -> FloatArray:
    table = read_table(data_dir / "vidur-profiles" / f"{board}__{model}__mlp.csv.gz")
    measured: dict[tuple[int, int], list[float]] = defaultdict(list)
    for line in table:
        key = int(line["num_tensor_parallel_workers"]), int(line["num_tokens"])
        measured[key].append(sum(float(line[f"time_stats.{name}.median"]) for name in KERNELS))
    shape = {key: int(table[0][key]) for key in ("n_embd", "n_head", "n_kv_head")}
    width = int(table[0]["n_expanded_embd"])
    return np.array(
        [
            layer_s(hardware, **shape, width=width, boards=boards, tokens=tokens)
            / (1e-3 * float(np.mean(milliseconds)))
            - 1.0
            for (boards, tokens), milliseconds in measured.items()
        ]
    )


def layer_s(
    hardware: HardwareProfile,
    *,
    n_embd: int,
    n_head: int,
    n_kv_head: int,
    width: int,
    boards: int,
    tokens: int,
) -> float:
    """Time of one layer without attention, at the highest clock."""
    head = n_embd // n_head
    heads, kv_heads, width = n_head // boards, max(1, n_kv_head // boards), width // boards
    rotary = (heads + kv_heads) * head
    rows = np.array([float(tokens)])
    gemms = (
        Gemm(name="qkv", n=(heads + 2 * kv_heads) * head, k=n_embd),
        Gemm(name="o", n=n_embd, k=heads * head),
        Gemm(name="gate_up", n=2 * width, k=n_embd),
        Gemm(name="down", n=n_embd, k=width),
    )
    streams = (
        Elementwise(name="norm", elements=3 * n_embd, row=n_embd, count=2),
        Elementwise(name="rope", elements=2 * rotary, row=rotary / 2),
        Elementwise(name="activation", elements=3 * width, row=width),
        Elementwise(name="add", elements=3 * n_embd, row=0),
    )
    costs = [gemm_cost(hardware, gemm, rows, "bf16") for gemm in gemms]
    costs += [elementwise_cost(hardware, part, rows, _ELEMENT_BYTES) for part in streams]
    return float(sum(np.asarray(cost.seconds(FASTEST)).item() for cost in costs))
