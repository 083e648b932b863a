"""Latency of whole batches on boards, models and engines to which nothing was fitted.

* LLM-Inference-Bench, TensorRT-LLM: a batch of equal prompts and answers, prefill and decoding
  together. Its vLLM of 2024 is left out: its host, not the board, sets the pace (a 7B model is no
  faster on four H100 than on one), and so are batches whose KV cache does not fit.
* Splitwise, Llama-2-70B on two boards, one prompt at a time. With four and eight boards that engine
  waits 28-45 ms a token for its host on either board, and its batches run prompt by prompt.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row, read_table
from voltana.plant import PlantModel, load_hardware
from voltana.plant.model import ModelProfile
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = {
    # layers, hidden, heads, kv heads, intermediate, vocabulary (each model's config.json)
    "meta-llama/Llama-2-7b-hf": (32, 4096, 32, 32, 11008, 32000),
    "meta-llama/Meta-Llama-3-8B": (32, 4096, 32, 8, 14336, 128256),
    "mistralai/Mistral-7B-v0.1": (32, 4096, 32, 8, 14336, 32000),
    "Qwen/Qwen2-7B": (28, 3584, 28, 4, 18944, 152064),
    "meta-llama/Llama-2-70b-hf": (80, 8192, 64, 8, 28672, 32000),
    "meta-llama/Meta-Llama-3-70B": (80, 8192, 64, 8, 28672, 128256),
    "Qwen/Qwen2-72B": (80, 8192, 64, 8, 29568, 152064),
}
MEMORY_FRACTION = 0.85
_ANSWER_POINTS = (0.1, 0.5, 0.9)


def run(data_dir: Path) -> list[Row]:
    """Median absolute errors by board and width, and by figure."""
    return [*_argonne(data_dir), *_splitwise(data_dir)]


def _plant(board: str, model: str, boards: int) -> PlantModel:
    layers, hidden, heads, kv_heads, intermediate, vocabulary = ARCHITECTURES[model]
    profile = ModelProfile(
        name=model,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
    )
    return PlantModel(load_hardware(board), profile, boards)


def _argonne(data_dir: Path) -> list[Row]:
    errors: dict[str, list[float]] = defaultdict(list)
    plants: dict[tuple[str, str, int], PlantModel] = {}
    for row in read_table(data_dir / "argonne-power" / "latency_throughput_a100_h100.csv.gz"):
        if row["Framework"] != "TensorRT-LLM" or row["Model"] not in ARCHITECTURES:
            continue
        board = "a100-sxm4-40gb" if "A100" in row["Hardware"] else "h100-sxm"
        key = board, row["Model"], int(row["Num of Hardware"])
        plant = plants.setdefault(key, _plant(*key))
        tokens, batch = int(row["Input Output Length"]), int(row["Batch Size"])
        model = plant.model
        need = model.weight_bytes + model.kv_bytes_per_token * 2 * tokens * batch
        if need > MEMORY_FRACTION * key[2] * plant.hardware.memory_bytes:
            continue
        took = _batch_s(plant, batch, tokens)
        errors[f"{board}, {key[2]} boards"].append(took / float(row["Latency"]) - 1.0)
    return [
        _row("Whole batches (LLM-Inference-Bench, TensorRT-LLM)", name, found)
        for name, found in sorted(errors.items())
    ]


def _batch_s(plant: PlantModel, batch: int, tokens: int) -> float:
    """Time of a batch with so many tokens in each prompt and each answer."""
    fastest = plant.hardware.max_clock_mhz
    prefill_s = plant.latency_s(Load.prefill([(tokens, 0)] * batch), fastest)
    contexts = [batch * round(tokens * (1 + share)) for share in _ANSWER_POINTS]
    decode_s = [plant.latency_s(Load.decode(batch, context), fastest) for context in contexts]
    return prefill_s + (tokens - 1) * float(np.mean(decode_s))


def _splitwise(data_dir: Path) -> list[Row]:
    errors: dict[str, list[float]] = defaultdict(list)
    for row in read_table(data_dir / "splitwise-llama2-70b" / "perf_llama2-70b.csv.gz"):
        if (row["tensor_parallel"], row["batch_size"]) != ("2", "1"):
            continue
        board = "a100-sxm4-80gb" if row["hardware"].startswith("a100") else "h100-sxm"
        plant = _plant(board, "meta-llama/Llama-2-70b-hf", 2)
        prompt, answer = int(row["prompt_size"]), int(row["token_size"])
        fastest = plant.hardware.max_clock_mhz
        prompt_s = plant.latency_s(Load.prefill([(prompt, 0)]), fastest)
        token_s = plant.latency_s(Load.decode(1, prompt + answer // 2), fastest)
        errors[f"{board}, prompt"].append(1e3 * prompt_s / float(row["prompt_time"]) - 1.0)
        errors[f"{board}, token"].append(1e3 * token_s / float(row["token_time"]) - 1.0)
    return [
        _row("Llama-2-70B on two boards (Splitwise)", name, found)
        for name, found in sorted(errors.items())
    ]


def _row(section: str, name: str, errors: list[float]) -> Row:
    return Row(
        section=section,
        what=f"{name}: median absolute error of the latency",
        measured=100.0 * float(np.median(np.abs(errors))),
        rows=len(errors),
    )
