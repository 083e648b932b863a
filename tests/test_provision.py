"""`voltana plan`: which layouts are tried, which is best, and what is said where none will do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.errors import ConfigError
from voltana.evaluation.provision import (
    Layout,
    Objective,
    Option,
    Provision,
    layouts,
    provision,
    rank,
)
from voltana.evaluation.sweep.work import attempt

SHORT = {
    "policies": ["static-max", "static-low"],
    "workload": {"rate_rps": 12.0, "duration_s": 3.0},
}
HEAVY = SHORT | {"workload": {"rate_rps": 120.0, "duration_s": 4.0}}


class Here:
    """Runs scenarios in this process, and counts them."""

    def __init__(self):
        self.ran = []

    def run(self, tasks):
        for task in tasks:
            self.ran.append(task)
            yield attempt(task)


def found(tmp_path, base=SHORT, objective=Objective.ENERGY, *, boards=3, tps=(1,), mixtures=False):
    workers = Here()
    answer = provision(
        base,
        most_boards=boards,
        tensor_parallels=tps,
        objective=objective,
        folder=tmp_path,
        workers=workers,
        mixtures=mixtures,
    )
    return answer, workers


@given(st.integers(1, 20), st.sets(st.sampled_from([1, 2, 4]), min_size=1))
def test_layouts_are_all_that_the_boards_allow(boards, tps):
    expected = {
        (tp, p, d, 0)
        for tp in tps
        for p in range(1, boards)
        for d in range(1, boards)
        if tp * (p + d) <= boards
    } | {(tp, 0, 0, c) for tp in tps for c in range(1, boards + 1) if tp * c <= boards}
    if not expected:
        with pytest.raises(ConfigError, match=r"boards = .* is not allowed: must be at least"):
            layouts(boards, sorted(tps))
        return
    tried = layouts(boards, sorted(tps))
    found = {(one.tensor_parallel, one.prefill, one.decode, one.colocated) for one in tried}
    assert found == expected
    assert [one.boards for one in tried] == sorted(one.boards for one in tried)


@given(st.integers(2, 9), st.sets(st.sampled_from([1, 2]), min_size=1))
def test_mixtures_are_pairs_beside_colocated_instances_on_what_boards_are_left(boards, tps):
    tried = layouts(boards, sorted(tps), mixtures=True)
    assert len(set(tried)) == len(tried)
    assert {one for one in tried if not (one.prefill and one.colocated)} == set(
        layouts(boards, sorted(tps))
    )
    mixed = {
        (one.tensor_parallel, one.prefill, one.decode, one.colocated, one.boards)
        for one in tried
        if one.prefill and one.colocated
    }
    assert mixed == {
        (tp, p, d, c, tp * (p + d + c))
        for tp in tps
        for p in range(1, boards)
        for d in range(1, boards)
        for c in range(1, boards)
        if tp * (p + d + c) <= boards
    }


def test_mixtures_are_tried_where_they_are_asked_for(tmp_path):
    answer, _ = found(tmp_path, mixtures=True)
    mixed = {one.policy: one for one in answer.options if str(one.layout) == "1P1D+1C, TP 1"}
    assert set(mixed) == {"static-max", "static-low"}
    alone = {one.policy: one for one in answer.options if str(one.layout) == "1P1D, TP 1"}
    assert mixed["static-max"].energy_per_request_j != alone["static-max"].energy_per_request_j


def test_too_few_boards_for_any_instance_are_refused():
    with pytest.raises(ConfigError, match="must be at least 1, one instance for both phases"):
        layouts(0, [1])
    with pytest.raises(ConfigError, match="must be at least 2, one instance for both phases"):
        layouts(1, [2, 4])


def test_too_many_layouts_are_refused():
    with pytest.raises(ConfigError, match="so few that at most 500 layouts come of it"):
        layouts(100, [1])


def option(boards=4, energy=100.0, ttft=1.0, itl=1.0, keeps=True) -> Option:
    layout = Layout(boards=boards, tensor_parallel=1, prefill=1, decode=boards - 1)
    return Option(
        layout=layout,
        policy="p",
        energy_per_request_j=energy,
        mean_power_w=1.0,
        ttft_attainment=ttft,
        itl_attainment=itl,
        keeps=keeps,
    )


def test_what_keeps_comes_first_and_then_what_is_to_be_least():
    cheap, small = option(6, 80.0), option(4, 100.0)
    near, far = option(2, 10.0, ttft=0.9, keeps=False), option(2, 5.0, itl=0.1, keeps=False)
    by_energy = sorted([far, small, near, cheap], key=lambda one: rank(one, Objective.ENERGY))
    assert by_energy == [cheap, small, near, far]
    by_boards = sorted([far, small, near, cheap], key=lambda one: rank(one, Objective.BOARDS))
    assert by_boards == [small, cheap, near, far]
    same = replace(small, energy_per_request_j=90.0)
    assert min([small, same], key=lambda one: rank(one, Objective.BOARDS)) is same


def test_the_least_energy_of_all_that_keep_is_best(tmp_path):
    answer, workers = found(tmp_path)
    assert len(workers.ran) == 6  # 1P1D, 1P2D, 2P1D, 1C, 2C, 3C
    assert len(answer.options) == 12
    kept = [one for one in answer.options if one.keeps]
    assert answer.best == min(kept, key=lambda one: one.energy_per_request_j)
    assert answer.best.policy == "static-low"
    again, workers = found(tmp_path)
    assert workers.ran == []
    assert again == answer


def test_the_search_for_the_fewest_boards_ends_with_the_first_that_do(tmp_path):
    answer, workers = found(tmp_path, objective=Objective.BOARDS, boards=6)
    assert len(workers.ran) == 1
    assert str(answer.best.layout) == "1C, TP 1"


def test_colocated_instances_of_the_scenario_are_replaced_too(tmp_path):
    base = {**SHORT, "cluster": {"prefill": 0, "decode": 0, "colocated": 5}}
    answer, _ = found(tmp_path, base, boards=2)
    assert {str(one.layout) for one in answer.options} == {"1P1D, TP 1", "1C, TP 1", "2C, TP 1"}


def test_what_colocated_instances_cannot_have_is_tried_on_pairs_and_said(tmp_path):
    base = {**SHORT, "policies": ["static-max", "voltana-v0.1"]}
    answer, _ = found(tmp_path, base, boards=2)
    tried = {(str(one.layout), one.policy) for one in answer.options}
    assert tried == {
        ("1P1D, TP 1", "static-max"), ("1P1D, TP 1", "voltana-v0.1"), ("1C, TP 1", "static-max"),
        ("2C, TP 1", "static-max"),
    }  # fmt: skip
    assert "not allowed with colocated instances" in answer.pairs_only["voltana-v0.1"]
    with pytest.raises(ConfigError, match="not allowed with colocated instances"):
        found(tmp_path, {**SHORT, "policies": ["voltana-v0.1"]}, boards=1)


def test_boards_an_instance_that_a_model_cannot_have_are_left_out(tmp_path):
    answer, _ = found(tmp_path, tps=(1, 3))
    assert "divisor of the 32 attention heads" in answer.left_out[3]
    assert {one.layout.tensor_parallel for one in answer.options} == {1}
    with pytest.raises(ConfigError, match="divisor of the 32 attention heads"):
        found(tmp_path, tps=(3,))


def test_instances_of_more_boards_than_there_are_are_left_out_and_said(tmp_path):
    answer, _ = found(tmp_path, tps=(1, 8), boards=2)
    assert {one.layout.tensor_parallel for one in answer.options} == {1}
    assert "boards = 2 is not allowed: must be at least 8" in answer.left_out[8]
    # A pair needs twice as many, and is all that such a policy can have.
    base = {**SHORT, "policies": ["voltana-v0.1"]}
    answer, _ = found(tmp_path, base, tps=(1, 2), boards=3)
    assert "must be at least 4" in answer.left_out[2]


def test_a_layout_that_cannot_be_simulated_is_named(tmp_path):
    base = {**SHORT, "workload": {"rate_rps": 0.1, "duration_s": 0.1}}
    answer, _ = found(tmp_path, base, boards=2)
    assert answer.best is None
    assert {failure.split(":")[0] for failure in answer.failures} == {
        "1P1D, TP 1", "1C, TP 1", "2C, TP 1",
    }  # fmt: skip


def command(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_where_nothing_keeps_the_targets_that_is_the_exit_code(tmp_path):
    result = command(
        "--boards", 2, "--rate", 120, "--duration", 4, "--policy", "static-low", "--slo-ttft-ms",
        60, "--out", tmp_path, "--workers", 1, "--json", tmp_path / "plan.json",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "Nothing keeps both SLO targets" in result.output
    answer = json.loads((tmp_path / "plan.json").read_text())
    assert answer["best"] is None
    assert len(answer["options"]) == 3
    assert {one["layout"]["colocated"] for one in answer["options"]} == {0, 1, 2}


def test_where_a_mixture_is_best_it_is_said_that_no_router_serves_it(tmp_path, monkeypatch):
    layout = Layout(boards=3, tensor_parallel=1, prefill=1, decode=1, colocated=1)
    best = replace(option(), layout=layout)
    monkeypatch.setattr(
        "voltana.evaluation.provision.provision",
        lambda *_, mixtures, **__: Provision(best=best, options=(best,)) if mixtures else None,
    )
    result = command("--mixtures", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1P1D+1C" in result.output
    assert "need a router each" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--least", "money"), "--least = 'money' is not allowed: must be energy or boards"),
        (("--tp", "two"), "--tp = 'two' is not allowed: must be a whole number from 1 to 1024"),
        (("--boards", "0"), "boards = 0 is not allowed: must be at least 1"),
        (("--model", "gpt"), "unknown model 'gpt'"),
    ],
)
def test_mistakes_are_named(arguments, said, tmp_path):
    result = command(*arguments, "--out", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
