"""Energy in the units that people pay, compare and report in.

The names are those of InferenceX's power metrics (schema 2), so that its tools read them. Every
figure says where it comes from. In a simulation that is the model of the boards and never a sensor,
hence ``power_valid`` is 0: a 1 stands for validated telemetry there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.values import Role

if TYPE_CHECKING:
    from voltana.evaluation.scenario import Scenario
    from voltana.evaluation.tariff import Tariff
    from voltana.plant.record import RunRecord

J_PER_KWH = 3.6e6
SOURCE = "simulated: power model of the hardware profile, integrated over every iteration"
SCHEMA = 2
"""Of InferenceX's power metrics."""


def units(record: RunRecord, scenario: Scenario) -> dict[str, object]:
    """Energy of a run by InferenceX's names, and what it does not have (kWh) beside.

    Tokens and requests are those of finished requests; powers are averages over the whole run, of
    one GPU where the name does not say ``total``. None where there is nothing to divide by, and a
    role's energy a token or a request where some instances serve both phases.

    Args:
        record: Energy integrated to its end.
        scenario: Its cluster tells the GPUs of each role.
    """
    cluster = scenario.cluster
    gpus = {
        Role.PREFILL: cluster.prefill * cluster.tensor_parallel,
        Role.DECODE: cluster.decode * cluster.tensor_parallel,
        Role.COLOCATED: cluster.colocated * cluster.tensor_parallel,
    }
    done = np.isfinite(record.completed_s)
    inputs, outputs = (
        int(tokens[done].sum()) for tokens in (record.prompt_tokens, record.output_tokens)
    )
    requests, energy_j = int(done.sum()), record.energy_j()
    prefill_j, decode_j = record.energy_j(Role.PREFILL), record.energy_j(Role.DECODE)
    # Where some instances serve both phases, tokens and requests are of no role alone.
    by_role = (0, 0, 0) if cluster.colocated else (inputs, outputs, requests)
    role_inputs, role_outputs, role_requests = by_role
    return {
        "source": SOURCE,
        "power_metric_schema_version": SCHEMA,
        "power_valid": 0,
        "num_prefill_gpu": gpus[Role.PREFILL],
        "num_decode_gpu": gpus[Role.DECODE],
        "avg_power_w": _over(energy_j, record.end_s * sum(gpus.values())),
        "avg_total_gpu_power_w": _over(energy_j, record.end_s),
        "total_gpu_energy_j": energy_j,
        "total_gpu_energy_kwh": energy_j / J_PER_KWH,
        "joules_per_successful_query": _over(energy_j, requests),
        "joules_per_input_token": _over(energy_j, inputs),
        "joules_per_output_token": _over(energy_j, outputs),
        "joules_per_total_token": _over(energy_j, inputs + outputs),
        "prefill_gpu_energy_j": prefill_j,
        "decode_gpu_energy_j": decode_j,
        "prefill_avg_power_w": _over(prefill_j, record.end_s * gpus[Role.PREFILL]),
        "decode_avg_power_w": _over(decode_j, record.end_s * gpus[Role.DECODE]),
        "prefill_joules_per_input_token": _over(prefill_j, role_inputs),
        "decode_joules_per_output_token": _over(decode_j, role_outputs),
        "prefill_joules_per_successful_query": _over(prefill_j, role_requests),
        "decode_joules_per_successful_query": _over(decode_j, role_requests),
        **(_colocated(record, gpus[Role.COLOCATED]) if cluster.colocated else {}),
    }


def _colocated(record: RunRecord, gpus: int) -> dict[str, object]:
    """What instances for both phases take, for which InferenceX has no names."""
    energy_j = record.energy_j(Role.COLOCATED)
    return {
        "num_colocated_gpu": gpus,
        "colocated_gpu_energy_j": energy_j,
        "colocated_avg_power_w": _over(energy_j, record.end_s * gpus),
    }


def spent(record: RunRecord, tariff: Tariff) -> float:
    """What the energy of a run comes to under a price or an intensity that may change.

    The energy of each second counts at what holds in that second; what is left after the last whole
    one at what holds at the end.
    """
    power_w = record.power_w
    seconds = np.arange(len(power_w), dtype=np.float64)
    left_j = record.energy_j() - float(power_w.sum())
    total = float(np.dot(power_w, tariff.at(seconds)))
    return (total + left_j * float(tariff.at(np.array([record.end_s]))[0])) / J_PER_KWH


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole and math.isfinite(part) else None
