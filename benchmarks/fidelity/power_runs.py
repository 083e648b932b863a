"""Measured power of whole runs, beside what the boards did meanwhile.

A run is what a board did in one period of known length: operations, and how long kernels ran. For
the rest of the period it waited for the host. That separates the plant's energy,
which is what is examined here, from the pace of an engine that the plant does not simulate.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import read_table
from voltana.plant import load_hardware
from voltana.plant.latency import LatencyModel
from voltana.plant.model import ModelProfile
from voltana.plant.power import LAUNCH
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.power import PowerModel

MEMORY_FRACTION = 0.9
"""Share of the memory that vLLM takes for weights and KV cache unless told otherwise."""

UNKNOWN_PROMPT_TOKENS = 200
"""Prompt length where a source does not give one: typical of its chat and code prompts."""

ARCHITECTURES: dict[str, tuple[int, int, int, int, int, int, int]] = {
    # layers, hidden, heads, kv heads, head dim, intermediate, vocabulary (each model's config.json)
    "meta-llama/Llama-2-7b-hf": (32, 4096, 32, 32, 128, 11008, 32000),
    "meta-llama/Meta-Llama-3-8B": (32, 4096, 32, 8, 128, 14336, 128256),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": (32, 4096, 32, 8, 128, 14336, 128256),
    "meta-llama/Meta-Llama-3.1-70B-Instruct": (80, 8192, 64, 8, 128, 28672, 128256),
    "codellama/CodeLlama-7b-hf": (32, 4096, 32, 32, 128, 11008, 32016),
    "codellama/CodeLlama-13b-hf": (40, 5120, 40, 40, 128, 13824, 32016),
    "codellama/CodeLlama-34b-hf": (48, 8192, 64, 8, 128, 22016, 32000),
    "codellama/CodeLlama-70b-hf": (80, 8192, 64, 8, 128, 28672, 32016),
    "mistralai/Mistral-7B-Instruct-v0.3": (32, 4096, 32, 8, 128, 14336, 32768),
    "mistralai/Mistral-Nemo-Instruct-2407": (40, 5120, 32, 8, 128, 14336, 131072),
    "mistralai/Mistral-Large-Instruct-2407": (88, 12288, 96, 8, 128, 28672, 32768),
    "microsoft/Phi-3-mini-4k-instruct": (32, 3072, 32, 32, 96, 8192, 32064),
    "microsoft/Phi-3-medium-4k-instruct": (40, 5120, 40, 10, 128, 17920, 32064),
    "google/gemma-2-2b-it": (26, 2304, 8, 4, 256, 9216, 256000),
    "google/gemma-2-9b-it": (42, 3584, 16, 8, 256, 14336, 256000),
    "google/gemma-2-27b-it": (46, 4608, 32, 16, 128, 36864, 256000),
    "google/codegemma-7b": (28, 3072, 16, 16, 256, 24576, 256000),
    "llama2-70b": (80, 8192, 64, 8, 128, 28672, 32000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRun:
    """What one board did in a period, and its measured power.

    Attributes:
        source: Where it was measured.
        label: Which row.
        hardware: The board.
        clock_mhz: Its mean SM clock.
        period_s: How long it took.
        busy_s: How long kernels ran.
        flops: Floating-point operations by kind of operator.
        bytes: Bytes moved by kind of operator.
        measured_w: Average power.
    """

    source: str
    label: str
    hardware: HardwareProfile
    clock_mhz: float
    period_s: float
    busy_s: float
    flops: dict[str, float]
    bytes: dict[str, float]
    measured_w: float

    def power_w(self, power: PowerModel) -> float:
        """What the plant says to that."""
        clock = power.at(self.clock_mhz)
        busy_s = min(self.busy_s, self.period_s)
        energy_j = clock.running_w * busy_s + clock.waiting_w * (self.period_s - busy_s)
        for kind in self.flops.keys() | self.bytes.keys():
            core_j, fixed_j = power.operation_j(
                kind, self.flops.get(kind, 0.0), self.bytes.get(kind, 0.0)
            )
            energy_j += clock.core_share * core_j + fixed_j
        return min(energy_j / self.period_s, power.limit_w)

    def error(self, power: PowerModel) -> float:
        """Relative error of the plant."""
        return self.power_w(power) / self.measured_w - 1.0


@cache
def architecture(name: str) -> ModelProfile:
    """Profile of a model that only the measurements know."""
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary = ARCHITECTURES[name]
    return ModelProfile(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
    )


def compose(
    run: dict[str, object], latency: LatencyModel, parts: Iterable[tuple[float, Load]]
) -> PowerRun:
    """Add up iterations, each so many times in a period, at the board's fastest clock."""
    hardware = latency.hardware
    flops: dict[str, float] = defaultdict(float)
    moved: dict[str, float] = defaultdict(float)
    busy_s = 0.0
    for times, load in parts:
        for part in latency.breakdown(load, hardware.max_clock_mhz):
            flops[part.kind] += times * part.flops
            moved[part.kind] += times * part.bytes
            busy_s += times * part.seconds * (part.kind != LAUNCH)
    return PowerRun(
        hardware=hardware,
        clock_mhz=hardware.max_clock_mhz,
        busy_s=busy_s,
        flops=dict(flops),
        bytes=dict(moved),
        **run,  # type: ignore[arg-type]
    )


def argonne(data_dir: Path) -> Iterator[PowerRun]:
    """Whole runs of a batch: prompts of 1024 tokens, answers of 1024 tokens."""
    for row in read_table(data_dir / "argonne-power" / "power_a100_h100.csv"):
        board = load_hardware("a100-sxm4-40gb" if "A100" in row["Hardware"] else "h100-sxm")
        model = architecture(row["Model"])
        batch, tokens = int(row["Batch Size"]), int(row["Input Output Length"])
        room = MEMORY_FRACTION * board.memory_bytes - model.weight_bytes
        context = round(1.5 * tokens)
        running = max(1, min(batch, int(room / model.kv_bytes_per_token / context)))
        parts = [
            (batch, Load.prefill([(tokens, 0)])),
            (batch / running * tokens, Load.decode(running, running * context)),
        ]
        run = {
            "source": f"Argonne {row['Framework']}",
            "label": f"{board.name} {row['Model']} batch {batch}",
            "period_s": float(row["Latency"]),
            "measured_w": float(row["avg_power_W"]),
        }
        yield compose(run, LatencyModel(board, model), parts)


def mlenergy(data_dir: Path) -> Iterator[PowerRun]:
    """Steady state: in each decode period, the share of prefill that keeps the batch full."""
    for row in read_table(data_dir / "mlenergy-v2" / "llm_runs_v2.csv"):
        if row["Model"] not in ARCHITECTURES or row["PP"] != "1":
            continue
        board = load_hardware("a100-sxm4-40gb" if "A100" in row["GPU"] else "h100-sxm")
        model, boards = architecture(row["Model"]), int(row["TP"])
        batch, answer = float(row["Avg_BS_reqs"]), float(row["Avg_Output_Tokens"])
        period_s = float(row["Avg_TPOT_s"])
        arrivals = float(row["Token_tput_tok_per_s"]) / answer * period_s
        context = UNKNOWN_PROMPT_TOKENS + answer / 2
        running = round(batch)
        parts = [
            (1.0, Load.decode(running, round(running * context))),
            (arrivals / 4, Load.prefill([(UNKNOWN_PROMPT_TOKENS, 0)] * 4)),
        ]
        run = {
            "source": "ML.ENERGY",
            "label": f"{board.name} {row['Model']} TP {boards} batch {running}",
            "period_s": period_s,
            "measured_w": float(row["power_w_per_gpu"]),
        }
        yield compose(run, LatencyModel(board, model, boards), parts)


def splitwise(data_dir: Path) -> Iterator[PowerRun]:
    """Decode of Llama-2-70B on two boards; the source does not say over what it averages."""
    seen = set()
    board, model = load_hardware("a100-sxm4-80gb"), architecture("llama2-70b")
    for row in read_table(data_dir / "splitwise-llama2-70b" / "perf_llama2-70b.csv.gz"):
        key = (row["prompt_size"], row["batch_size"], row["token_size"])
        if not row["average_power"] or key in seen:
            continue
        seen.add(key)
        prompt, batch, answer = (int(part) for part in key)
        run = {
            "source": "Splitwise",
            "label": f"{board.name} prompt {prompt} batch {batch}",
            "period_s": float(row["token_time"]) / 1e3,
            "measured_w": float(row["average_power"]) * board.tdp_w,
        }
        parts = [(1.0, Load.decode(batch, round(batch * (prompt + answer / 2))))]
        yield compose(run, LatencyModel(board, model, int(row["tensor_parallel"])), parts)


EAGER = {
    # layers, hidden, heads, intermediate, passes over the feed-forward activations in eager PyTorch
    "bertmodel": (24, 1024, 16, 4096, 2),
    "gpt2model": (12, 768, 12, 3072, 20),  # its GELU is eight element-wise kernels
    "optmodel": (24, 2048, 32, 8192, 2),
}
LAUNCH_BOUND = {
    ("bertmodel", "bf16", 8, 128),
    ("gpt2model", "bf16", 8, 128),
    ("optmodel", "bf16", 2, 128),
}
"""Workloads that wait for the host, as the source says of them."""

_EAGER_SCORE_PASSES = 8
_EAGER_HIDDEN_PASSES = 12


def energaizer(data_dir: Path) -> Iterator[PowerRun]:
    """Prefill in eager PyTorch at locked clocks on the PCIe board."""
    board = load_hardware("a100-pcie-40gb")
    for row in read_table(data_dir / "energaizer-a100-dvfs" / "prefill_dvfs_a100pcie40.csv"):
        batch, length = int(row["batch"]), int(row["seq"])
        workload = (row["model"], row["prec"], batch, length)
        if workload in LAUNCH_BOUND:
            continue
        layers, hidden, heads, width, passes = EAGER[row["model"]]
        tokens, size = batch * length, 2 if row["prec"] == "bf16" else 4
        attention = 4.0 * layers * batch * length * length * hidden
        gemm = 2.0 * layers * tokens * (4 * hidden * hidden + 2 * hidden * width)
        streamed = tokens * (_EAGER_HIDDEN_PASSES * hidden + passes * width)
        streamed += _EAGER_SCORE_PASSES * batch * heads * length * length
        fp32 = row["prec"] == "fp32"
        period_s = float(row["latency_ms"]) / 1e3
        yield PowerRun(
            source="EnergAIzer",
            label=" ".join(map(str, workload)),
            hardware=board,
            clock_mhz=float(row["sm_clock_actual_mhz"]),
            period_s=period_s,
            busy_s=period_s,
            flops={"gemm_fp32": gemm + attention}
            if fp32
            else {"gemm_bf16": gemm, "gemm_batched": attention},
            bytes={"elementwise": float(layers * size * streamed)},
            measured_w=float(row["avg_power_w"]),
        )


def errors(
    runs: Iterable[PowerRun], power: PowerModel
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Relative errors, shape (runs,)."""
    return np.array([run.error(power) for run in runs])
