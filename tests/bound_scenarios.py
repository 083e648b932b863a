"""Scenarios of the default cluster that tests of the bound ask for."""

from __future__ import annotations

from functools import cache

from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.slo import Attainment, Slo

SLO = Slo(ttft_s=0.6, itl_s=0.065)
EVERYTHING = Attainment(ttft=1.0, itl=1.0, itl_tokens=1.0)


def scenario(*policies: str, **tables):
    return load_scenario(None, {"policies": list(policies) or ["static-max"], **tables})


@cache
def default_plant():
    return scenario(**{ARRIVALS: {"duration_s": 1.0}}).plant
