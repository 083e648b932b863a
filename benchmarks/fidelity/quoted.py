"""Comparisons with measurements that are known only as they were quoted (``quoted.toml``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row, quotations
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.model import ModelProfile
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = ((128, 128), (256, 256), (512, 512))
"""Prompt and answer of the requests whose exponent is compared; those measured are not said."""
QWEN3_30B_FP8 = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "intermediate_size": 6144,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "quantization_config": {"quant_method": "fp8"},
}
MOE_CONTEXT = 300
"""Tokens of each request, which the note does not say."""


def run(_data_dir: Path) -> list[Row]:
    """All quoted figures that one board alone can be held against."""
    return [*_exponents(), *_hopper(), *_mixture(), *_h200_decode()]


def _exponents() -> list[Row]:
    section = "Decode against the clock (quoted)"
    quoted = quotations()["decode_exponent"]
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    rows = []
    for batch, measured in zip(quoted["batches"], quoted["exponents"], strict=True):
        whole = float(np.mean([whole_exponent(plant, batch, *lengths) for lengths in REQUESTS]))
        rows.append(
            Row(
                section=section,
                what=f"A100, Llama-3.1-8B, batch {batch}: exponent of whole requests, measured "
                f"{measured:g}",
                measured=whole,
                low=measured - 0.05,
                high=measured + 0.05,
                unit="",
                rows=1,
            )
        )
        alone = decode_exponent(plant, Load.decode(batch, 1000 * batch))
        what = f"the same, batch {batch}: of decode alone at 1,000 tokens each"
        rows.append(Row(section=section, what=what, measured=alone, unit="", rows=1))
    v100 = quotations()["decode_v100"]
    slow, fast = (v100[key] * plant.hardware.max_clock_mhz for key in ("low_clock", "high_clock"))
    load = Load.decode(64, 64_000)
    what = (
        "decode at 0.49 of the top clock over that at 0.62, batch 64 on A100 (V100 measured: "
        f"{v100['time_ratio']:g})"
    )
    ratio = plant.latency_s(load, slow) / plant.latency_s(load, fast)
    return [*rows, Row(section=section, what=what, measured=ratio, unit="", rows=1)]


def decode_exponent(plant: PlantModel, load: Load) -> float:
    """Exponent of the time of an iteration between 1410 and 1005 MHz."""
    slow, fast = (plant.latency.latency_s(load, mhz) for mhz in (1005, 1410))
    return float(np.log(slow / fast) / np.log(1410 / 1005))


def whole_exponent(plant: PlantModel, batch: int, prompt: int, answer: int) -> float:
    """The same of whole requests: a prefill, then `answer` steps of decode."""
    times = []
    for mhz in (1005, 1410):
        prefill_s = plant.latency.latency_s(Load.prefill([(prompt, 0)] * batch), mhz)
        decode = Load.decode(batch, batch * (prompt + answer // 2))
        times.append(prefill_s + answer * plant.latency.latency_s(decode, mhz))
    return float(np.log(times[0] / times[1]) / np.log(1410 / 1005))


def _hopper() -> list[Row]:
    section = "Hopper against the clock (quoted)"
    quoted = quotations()["h100_optimum"]
    plant = PlantModel(load_hardware("h100-sxm"), load_model("llama-3.1-8b"))
    load = Load.prefill([(2048, 0)] * 4)
    clocks = [mhz for mhz in plant.hardware.clocks_mhz if mhz >= 500]
    energies = [_unlimited_j(plant, load, mhz) for mhz in clocks]
    best = clocks[int(np.argmin(energies))]
    return [
        Row(
            section=section,
            what=f"H100, prefill: clock of least energy (measured {quoted['clock_mhz']})",
            measured=best,
            low=quoted["clock_mhz"] - 45,
            high=quoted["clock_mhz"] + 45,
            unit="MHz",
            rows=1,
        ),
        Row(
            section=section,
            what="H100, prefill, no power limit: least energy over that at 1860 MHz (measured "
            f"{quoted['energy_over_1860']:g}, not LLM)",
            measured=min(energies) / _unlimited_j(plant, load, 1860.0),
            low=quoted["energy_over_1860"] * 0.9,
            high=quoted["energy_over_1860"] * 1.1,
            unit="",
            rows=1,
        ),
    ]


def _unlimited_j(plant: PlantModel, load: Load, clock_mhz: float) -> float:
    parts = plant.latency.breakdown(load, clock_mhz)
    return plant.power.power_w(parts, clock_mhz) * sum(part.seconds for part in parts)


def _mixture() -> list[Row]:
    section = "Mixture of experts in fp8 (quoted)"
    quoted = quotations()["moe_h200"]
    plant = PlantModel(load_hardware("h200-sxm"), ModelProfile.from_hf_config(QWEN3_30B_FP8))
    fastest, rows, errors = plant.hardware.max_clock_mhz, [], []
    for batch, tokens_per_s, power_w in zip(
        quoted["in_flight"], quoted["tokens_per_s"], quoted["power_w"], strict=True
    ):
        step = plant.iterate(Load.decode(batch, batch * MOE_CONTEXT), fastest)
        error = 100 * (step.latency_s * tokens_per_s / batch - 1)
        errors.append(error)
        words = f"Qwen3-30B-A3B on H200, {batch} in flight"
        rows += [
            Row(section=section, what=f"{words}: time per output token, error", measured=error,
                low=-15, high=15, rows=1),
            Row(section=section, what=f"{words}: power, error",
                measured=100 * (step.power_w / power_w - 1), low=-10, high=10, rows=1),
        ]  # fmt: skip
    mean = float(np.mean(errors))
    what = "Qwen3-30B-A3B on H200: mean error of the time"
    return [*rows, Row(section=section, what=what, measured=mean, rows=len(errors))]


def _h200_decode() -> list[Row]:
    """Power of kernels back to back, and how much of the time they may run for what was seen."""
    section = "Power of decode on H200 (quoted)"
    quoted = quotations()["h200_decode_power"]
    plant = PlantModel(load_hardware("h200-sxm"), load_model("llama-3.1-8b"))
    waiting_w, rows = plant.power.at(1980).waiting_w, []
    for batch in (1, 64):
        running_w = plant.power_w(Load.decode(batch, 1000 * batch), 1980)
        share = 100 * (quoted["high_w"] - waiting_w) / (running_w - waiting_w)
        rows += [
            Row(section=section, what=f"Llama-3.1-8B, batch {batch}, kernels back to back (a study "
                f"sees {quoted['low_w']}-{quoted['high_w']} W of 700 while decoding)",
                measured=running_w, unit="W", rows=1),
            Row(section=section, what=f"the same, batch {batch}: share of the time in kernels at "
                f"which the plant draws {quoted['high_w']} W", measured=share, rows=1),
        ]  # fmt: skip
    what = f"a board that waits between kernels at 1980 MHz (the study's least: {quoted['low_w']})"
    return [*rows, Row(section=section, what=what, measured=waiting_w, unit="W", rows=1)]
