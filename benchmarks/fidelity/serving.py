"""Whole deployments: TTFT and time per output token (TPOT) of aggregated H100 serving, and more.

A client keeps so many requests of equal length in flight. Nothing is fitted here but the host's
share of an iteration. What the engines do between prefill and decode decides both figures:

* SGLang prefills the whole burst first, in batches of 8192 tokens. The mean request waits for half
  of the batches (TTFT), and the other half interrupts its decoding (TPOT).
* TensorRT-LLM and vLLM mix each prompt into a decode iteration. Of all iterations of a request, one
  for each request in flight carries a prompt.

Rows are left out where requests queue: where KV caches of all requests in flight do not fit into
memory. The TTFT of TensorRT-LLM and vLLM is not compared: it holds start-up and bursts that the
files do not describe (it falls where more requests are in flight, and rises with the answer's
length).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row, read_table
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.model import ModelProfile
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

SECTION = "Serving (H100 deployments)"
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
}
QWEN3_235B = {
    "model_type": "qwen3-235b-a22b",
    "num_hidden_layers": 94,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
}
MOE = "qwen3-235b"
MEMORY_FRACTION = 0.88
BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One measured row."""

    engine: str
    model: ModelProfile
    boards: int
    in_flight: int
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float

    @property
    def group(self) -> str:
        """Engine, model and type of weights."""
        return f"{self.engine}, {self.model.name} {self.model.weight_dtype}"


def run(data_dir: Path) -> list[Row]:
    """Median absolute errors of TPOT and TTFT."""
    hardware = load_hardware("h100-sxm")
    plants: dict[tuple[str, str, int], PlantModel] = {}
    tpot, ttft = defaultdict(list), defaultdict(list)
    for row in _deployments(data_dir):
        need = row.in_flight * (row.prompt_tokens + row.output_tokens)
        need_bytes = need * row.model.kv_bytes_per_token + row.model.weight_bytes
        if need_bytes > MEMORY_FRACTION * row.boards * hardware.memory_bytes:
            continue
        key = row.model.name, row.model.weight_dtype, row.boards
        if key not in plants:
            plants[key] = PlantModel(hardware, row.model, row.boards)
        ttft_s, tpot_s = _predict(plants[key], row)
        groups = [row.group] if row.model.experts else ["all dense models", row.group]
        for name in groups:
            tpot[name].append(tpot_s / row.tpot_s - 1.0)
            if row.engine == "sglang":
                ttft[name].append(ttft_s / row.ttft_s - 1.0)
    return [*_rows("TPOT", tpot), *_rows("TTFT of SGLang", ttft)]


def _rows(what: str, errors: dict[str, list[float]]) -> list[Row]:
    return [
        Row(
            section=SECTION,
            what=f"{what}, {name}: median absolute error",
            measured=100.0 * float(np.median(np.abs(found))),
            high=15.0 if name == "all dense models" or MOE in name else None,
            rows=len(found),
        )
        for name, found in errors.items()
    ] + [
        Row(
            section=SECTION,
            what=f"{what}, {name}: median error, signed",
            measured=100.0 * float(np.median(found)),
            low=-7.0,
            high=7.0,
            rows=len(found),
        )
        for name, found in errors.items()
        if MOE in name
    ]


def _deployments(data_dir: Path) -> list[Deployment]:
    found = []
    for row in read_table(data_dir / "silicon-serving-h100" / "silicon_h100.csv.gz"):
        model = _model(row["model_path"])
        if row["mode"] != "agg" or model is None or float(row["pp_size"]) > 1:
            continue
        if row["gemm_quant_mode"]:
            model = model.model_copy(update={"weight_dtype": "fp8"})
        found.append(
            Deployment(
                engine=row["backend"],
                model=model,
                boards=int(float(row["tp_size"])),
                in_flight=int(float(row["batch_size"])),
                prompt_tokens=int(row["isl"]),
                output_tokens=int(row["osl"]),
                ttft_s=1e-3 * float(row["silicon_ttft_ms"]),
                tpot_s=1e-3 * float(row["silicon_tpot_ms"]),
            )
        )
    return found


def _model(path: str) -> ModelProfile | None:
    if path in MODELS:
        return load_model(MODELS[path])
    if path == "Qwen/Qwen3-235B-A22B-FP8":
        return ModelProfile.from_hf_config(QWEN3_235B)
    return None


def _predict(plant: PlantModel, row: Deployment) -> tuple[float, float]:
    """TTFT and TPOT; the first is nan where it is not compared."""
    fastest = plant.hardware.max_clock_mhz
    in_flight, outputs = row.in_flight, row.output_tokens
    context = in_flight * (row.prompt_tokens + outputs // 2)
    decode_s = plant.latency_s(Load.decode(in_flight, context), fastest)
    if row.engine == "sglang":
        together = min(in_flight, max(1, BATCH_TOKENS // row.prompt_tokens))
        batch_s = plant.latency_s(Load.prefill([(row.prompt_tokens, 0)] * together), fastest)
        batches = in_flight / together
        return batch_s * (batches + 1) / 2, decode_s + batch_s * (batches - 1) / 2 / outputs
    prompt = Load.prefill([(row.prompt_tokens, 0)])
    mixed = Load(
        prefill_tokens=prompt.prefill_tokens,
        prefill_attended_pairs=prompt.prefill_attended_pairs,
        decode_requests=in_flight - 1,
        decode_kv_tokens=context,
    )
    carrying = min(in_flight, outputs)
    mixed_s = plant.latency_s(mixed, fastest)
    return float("nan"), (carrying * mixed_s + (outputs - carrying) * decode_s) / outputs
