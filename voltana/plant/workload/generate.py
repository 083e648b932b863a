"""Synthetic workloads: a named length distribution under an arrival process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid, unknown_name
from voltana.plant.workload.arrivals import Diurnal, Gamma, Poisson, load_profile
from voltana.plant.workload.lengths import length_names, load_lengths
from voltana.plant.workload.trace import Trace
from voltana.plant.workload.transform import clip_lengths

if TYPE_CHECKING:
    from voltana.plant.workload.arrivals import ArrivalProcess
    from voltana.plant.workload.lengths import LengthDistribution

ARRIVAL_NAMES = ("diurnal", "gamma", "poisson")


def workload_names() -> list[str]:
    """Names that `make_workload` knows."""
    return length_names()


def make_workload(
    name: str | LengthDistribution,
    rate_rps: float,
    duration_s: float,
    seed: int,
    *,
    arrival: str | ArrivalProcess = "poisson",
    cv: float | None = None,
    prompt_mean_tokens: float | None = None,
    output_mean_tokens: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
) -> Trace:
    """Draw a synthetic trace; the same arguments always give the same one.

    Arrivals and lengths have random streams of their own: with the same seed, a longer run begins
    with the requests of a shorter one (unless `arrival` compresses a day into the run), and another
    rate or another arrival process changes no length.

    Args:
        name: A length distribution, by name (see `workload_names`) or as an object.
        rate_rps: Mean rate in requests a second.
        duration_s: Length of the run.
        seed: Seed of all randomness, at least 0.
        arrival: ``poisson``, ``gamma``, ``diurnal`` (a day compressed into the run), or a process
            (such as `voltana.plant.workload.arrivals.ClientRates`, which needs a file).
        cv: Coefficient of variation of the gaps, for ``gamma`` alone; 2 if left out.
        prompt_mean_tokens: Stretch the prompts to this mean.
        output_mean_tokens: Stretch the outputs to this mean.
        max_prompt_tokens: Clip longer prompts.
        max_output_tokens: Clip longer outputs.

    Raises:
        ConfigError: If an argument is out of range, a name is unknown, or no request arrives.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise invalid("seed", seed, "an integer of at least 0", "Give for instance 0.")
    lengths = load_lengths(name) if isinstance(name, str) else name
    lengths = lengths.with_means(
        prompt_mean_tokens=prompt_mean_tokens, output_mean_tokens=output_mean_tokens
    )
    arrivals_rng, lengths_rng = np.random.default_rng(seed).spawn(2)
    arrival_s = _process(arrival, cv).sample(rate_rps, duration_s, arrivals_rng)
    if len(arrival_s) == 0:
        raise invalid(
            "rate_rps * duration_s",
            rate_rps * duration_s,
            "large enough for at least one request to arrive",
            "Raise the rate or the duration, or take another seed.",
        )
    prompts, outputs = lengths.sample(len(arrival_s), lengths_rng)
    return clip_lengths(
        Trace(arrival_s=arrival_s, prompt_tokens=prompts, output_tokens=outputs),
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
    )


def _process(arrival: str | ArrivalProcess, cv: float | None) -> ArrivalProcess:
    if cv is not None and arrival != "gamma":
        raise invalid("cv", cv, "left out unless arrival is 'gamma'", "Set arrival to 'gamma'.")
    if not isinstance(arrival, str):
        return arrival
    if arrival == "gamma":
        return Gamma() if cv is None else Gamma(cv=cv)
    if arrival == "poisson":
        return Poisson()
    if arrival == "diurnal":
        return Diurnal(profile=load_profile())
    raise unknown_name("arrival process", arrival, list(ARRIVAL_NAMES))
