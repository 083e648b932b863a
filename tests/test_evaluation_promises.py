"""What a comparison shows of promises: every share, the raw rate beside the certified one."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console

from tests.records import PAIR, instance, record
from voltana.controllers.ecofreq import EcoFreq
from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import (
    markdown_further,
    markdown_report,
    print_table,
    to_json,
)
from voltana.evaluation.metrics import measure
from voltana.evaluation.promise_tables import (
    ACCOUNT_HEADERS,
    PROMISE_HEADERS,
    VIABILITY_CAPTION,
    VIABILITY_HEADERS,
    account_rows,
    promise_rows,
    viability_rows,
)
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.evaluation.wording import UNKNOWN
from voltana.policies.named import get_policy
from voltana.policy import InstancePolicy
from voltana.predictors.ecopred import EcoPred
from voltana.slo import Slo
from voltana.values import Role, Status

SLO = Slo(ttft_s=0.6, itl_s=0.05)


def uncertified(context):
    """EcoFreq on a predictor whose bound is an estimate."""
    predictor = EcoPred.from_datasheet(context.datasheet)
    return InstancePolicy(
        controller=EcoFreq(predictor, context.table_mhz, context.slo),
        levels_mhz=context.table_mhz,
        predictor=predictor,
    )


@pytest.fixture(scope="module")
def comparison():
    flags = {
        "policies": ["static-max", "voltana"],
        "cluster": {"prefill": 1, "decode": 1},
        ARRIVALS: {"rate_rps": 20.0, "duration_s": 12.0},
    }
    scenario = load_scenario(None, flags)
    plain = dataclasses.replace(get_policy("voltana"), control=uncertified)
    return compare(
        dataclasses.replace(scenario, policies={**scenario.policies, "uncertified": plain})
    )


def result_of(comparison, policy):
    return next(run.result for run in comparison.runs if run.result.policy == policy)


def test_the_certified_policy_shows_its_account(comparison) -> None:
    result = result_of(comparison, "voltana")
    account = result.guarantee
    assert account is not None
    assert account["certified"] > 100
    assert account["violated"] <= account["missed"] <= account["bound"]
    assert account["lost"] == account["overdue"] == account["refused"] == 0
    shares = (result.certified_share, result.saturated_share, result.void_share)
    assert sum(shares) == pytest.approx(1.0)
    assert result.certified_share > 0.5


def test_the_account_agrees_with_what_the_plant_counted(comparison) -> None:
    run = next(r for r in comparison.runs if r.result.policy == "voltana")
    counted = sum(i.broken[Status.CERTIFIED] for i in run.record.instances)
    assert run.result.guarantee["violated"] == counted


def test_without_a_guarantee_there_is_none_to_show(comparison) -> None:
    assert result_of(comparison, "uncertified").guarantee is None
    assert math.isnan(result_of(comparison, "static-max").violation_rate)
    rows = [dict(zip(PROMISE_HEADERS, row, strict=True)) for row in promise_rows(comparison)]
    accounts = {row["policy"]: row[PROMISE_HEADERS[-2]] for row in rows}
    assert set(accounts) == {"voltana", "uncertified"}
    assert accounts["uncertified"] == UNKNOWN
    assert " / " in accounts["voltana"]


def test_every_output_shows_them(comparison) -> None:
    out = io.StringIO()
    print_table(comparison, Console(file=out, width=110))
    assert "saturated" in out.getvalue()
    assert "proven most" in out.getvalue()
    assert " | ".join(PROMISE_HEADERS) in markdown_report(comparison, ())
    assert "elsewhere" in out.getvalue()
    assert " | ".join(ACCOUNT_HEADERS) in markdown_report(comparison, ())
    (row,) = account_rows(comparison)
    account = result_of(comparison, "voltana").guarantee
    assert row[:2] == ("voltana", f"{account['certified']:.0f}")
    assert row[-1] == "0"
    results = {r["policy"]: r for r in json.loads(to_json(comparison))["results"]}
    certified = results["voltana"]
    assert certified["guarantee"]["bound"] > 0
    assert certified["violation_rate"] >= certified["certified_violation_rate"]
    assert results["static-max"]["violation_rate"] is None


def test_viability_is_in_every_output(comparison) -> None:
    run = next(r for r in comparison.runs if r.result.policy == "voltana")
    seen = run.result.viability
    decode = [i for i in run.record.instances if i.role is Role.DECODE]
    assert seen["steps"] == sum(i.iterations for i in decode) > 100
    assert seen["windows"] == sum(i.viability.windows for i in decode) > 0
    assert seen["outside_share"] == seen["outside"] / seen["steps"]
    assert result_of(comparison, "static-max").viability is None
    out = io.StringIO()
    print_table(comparison, Console(file=out, width=110))
    assert VIABILITY_CAPTION[:40] in out.getvalue()
    rows = {row[0]: row[1:] for row in viability_rows(comparison)}
    assert rows["voltana"][0] == str(seen["windows"])
    assert "static-max" not in rows
    assert " | ".join(VIABILITY_HEADERS) in markdown_report(comparison, ())
    written = {r["policy"]: r["viability"] for r in json.loads(to_json(comparison))["results"]}
    assert written["voltana"] == seen
    assert written["static-max"] is None


def test_fixed_clocks_make_no_table_of_promises() -> None:
    flags = {
        "policies": ["static-max"],
        "cluster": {"prefill": 1, "decode": 1},
        ARRIVALS: {"rate_rps": 5.0, "duration_s": 2.0},
    }
    comparison = compare(load_scenario(None, flags))
    assert markdown_further(comparison) == ""
    out = io.StringIO()
    print_table(comparison, Console(file=out, width=110))
    assert "saturated" not in out.getvalue()


def test_the_rates_are_shares_of_the_iterations_with_a_budget() -> None:
    made = record(
        instances=(
            instance(
                "prefill-0",
                300.0,
                budgeted={Status.CERTIFIED: 40, Status.SATURATED: 10, Status.VOID: 0},
                broken={Status.CERTIFIED: 1, Status.SATURATED: 9, Status.VOID: 0},
                guarantee={"violated": 1.0, "bound": 8.0},
            ),
            instance(
                "decode-0",
                700.0,
                budgeted={Status.CERTIFIED: 50, Status.SATURATED: 0, Status.VOID: 0},
                broken={Status.CERTIFIED: 2, Status.SATURATED: 0, Status.VOID: 0},
                guarantee={"violated": 2.0, "bound": 9.0},
            ),
        )
    )
    result = measure("p", made, SLO, reference_energy_j=1000.0, wall_s=1.0)
    assert result.violation_rate == pytest.approx(12 / 100)
    assert result.certified_violation_rate == pytest.approx(3 / 90)
    assert result.guarantee == {"violated": 3.0, "bound": 17.0}


def test_records_without_budgets_have_no_rate() -> None:
    result = measure("p", record(instances=PAIR), SLO, reference_energy_j=1000.0, wall_s=1.0)
    assert math.isnan(result.violation_rate)
    assert result.guarantee is None
    assert result.to_dict()["violation_rate"] is None
