"""EcoPred: what it forecasts, how it learns, and how accurate it gets on the noisy plant."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.latency_plants import Case, mean_errors, outcomes, random_load
from voltana.errors import ConfigError
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.ecopred.latency_model import LatencySnapshot
from voltana.testing import samples
from voltana.testing import strategies as vst
from voltana.values import Load, Outcome, Phase

CLOCKS_MHZ = samples.clocks()
LLAMA_8B = Case("a100-sxm4-80gb", "llama-3.1-8b", 1)
OTHERS = [
    Case("a100-sxm4-80gb", "ministral-3b", 1),
    Case("a100-sxm4-80gb", "qwen3-32b", 2),
    Case("h100-sxm", "llama-3.1-70b", 4),
]


def warm():
    return EcoPred.from_datasheet(LLAMA_8B.datasheet())


def taught(predictor, labels):
    for outcome in labels:
        predictor.learn(outcome)
    return predictor


MAKERS = {"cold": EcoPred, "from a datasheet": warm}


@pytest.mark.parametrize("name", MAKERS)
def test_forecasts_fall_with_the_clock_and_are_never_negative(name):
    @given(st.lists(vst.outcomes(), max_size=10), vst.loads())
    def check(labels, load):
        forecast = taught(MAKERS[name](), labels).forecast(load, CLOCKS_MHZ)
        for values_s in (forecast.mean_s, forecast.upper_s):
            assert (values_s >= 0).all()
            assert (values_s[1:] <= values_s[:-1] * (1 + 1e-12)).all()
        assert (forecast.upper_s >= forecast.mean_s).all()

    check()


@given(st.lists(vst.outcomes(), max_size=10), st.lists(vst.outcomes(), max_size=10), vst.loads())
def test_a_snapshot_survives_a_round_trip_and_later_learning(earlier, later, load):
    predictor = taught(warm(), earlier)
    frozen = predictor.snapshot()
    before = frozen.forecast(load, CLOCKS_MHZ)
    read = LatencySnapshot.from_dict(json.loads(json.dumps(frozen.to_dict(), allow_nan=False)))
    taught(predictor, later)
    for snapshot in (frozen, read):
        assert samples.same_forecast(snapshot.forecast(load, CLOCKS_MHZ), before)


@given(vst.loads(), st.floats(210.0, 1410.0))
def test_the_expected_latency_at_a_clock_is_the_mean_forecast_there(load, clock_mhz):
    predictor = taught(warm(), samples.outcomes(20))
    mean_s = predictor.forecast(load, np.array([clock_mhz])).mean_s[0]
    assert predictor.expected_s(load, clock_mhz) == pytest.approx(mean_s)


def test_without_a_prior_every_bound_is_infinite_until_it_has_learned():
    predictor = EcoPred()
    load = Load.decode(32, 20_000)
    assert (predictor.forecast(load, CLOCKS_MHZ).upper_s == math.inf).all()
    labels = [o for o in samples.outcomes(200) if o.load.phase is Phase.DECODE]
    taught(predictor, labels)
    assert np.isfinite(predictor.forecast(load, CLOCKS_MHZ).upper_s).all()
    prompt = Load.prefill([(500, 0)])
    assert (predictor.forecast(prompt, CLOCKS_MHZ).upper_s == math.inf).all()


def test_a_clock_that_was_never_tried_is_bounded_by_physics():
    load = Load.decode(64, 40_000)
    label = Outcome(load=load, clock_mhz=1200.0, latency_s=0.03, ended_at_s=0.0)
    predictor = taught(warm(), [label] * 50)
    slow, tried, fast = predictor.forecast(load, np.array([600.0, 1200.0, 1410.0])).upper_s
    assert tried < 1.2 * 0.03
    assert slow == pytest.approx(2 * tried)
    assert fast == pytest.approx(tried)


def test_a_load_that_was_never_seen_has_a_wider_bound():
    seen, unseen = Load.decode(32, 20_000), Load.decode(400, 200_000)
    label = Outcome(load=seen, clock_mhz=1410.0, latency_s=0.02, ended_at_s=0.0)
    predictor = taught(warm(), [label] * 100)
    ratios = []
    for load in (seen, unseen):
        forecast = predictor.forecast(load, np.array([1410.0]))
        ratios.append(float(forecast.upper_s[0] / forecast.mean_s[0]))
    assert ratios[1] - 1 > 2 * (ratios[0] - 1)


def test_it_learns_the_clock_that_was_achieved():
    """The same latencies at half the clock mean a machine that is twice as fast."""
    load = Load.prefill([(4000, 0)])
    fast, slow = (
        taught(
            warm(), [Outcome(load=load, clock_mhz=mhz, latency_s=0.3, ended_at_s=0.0)] * 100
        ).expected_s(load, 1410.0)
        for mhz in (705.0, 1410.0)
    )
    assert fast < 0.8 * slow


def test_mixed_batches_teach_and_are_forecast():
    predictor = taught(warm(), samples.outcomes(300))
    mixed = samples.LOADS["a mixed batch"]
    alone = Load(
        prefill_tokens=mixed.prefill_tokens, prefill_attended_pairs=mixed.prefill_attended_pairs
    )
    assert predictor.expected_s(mixed, 1410.0) > predictor.expected_s(alone, 1410.0)
    label = Outcome(
        load=mixed,
        clock_mhz=1410.0,
        latency_s=2 * predictor.expected_s(mixed, 1410.0),
        ended_at_s=0,
    )
    taught(predictor, [label] * 300)
    assert predictor.expected_s(mixed, 1410.0) == pytest.approx(label.latency_s, rel=0.1)


def test_outliers_do_not_own_it():
    predictor = taught(warm(), outcomes(LLAMA_8B, Phase.DECODE, 300, seed=1))
    load = Load.decode(64, 30_000)
    before = predictor.expected_s(load, 1410.0)
    stall = Outcome(load=load, clock_mhz=1410.0, latency_s=5.0, ended_at_s=0.0)
    taught(predictor, [stall])
    assert predictor.expected_s(load, 1410.0) == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize(("phase", "most_ms"), [(Phase.DECODE, 2.0), (Phase.PREFILL, 7.0)])
@pytest.mark.parametrize("slowest_share", [0.7, 0.15])
def test_is_accurate_after_500_iterations_from_a_physical_prior(phase, most_ms, slowest_share):
    predictor = taught(warm(), outcomes(LLAMA_8B, phase, 500, seed=2, slowest_share=slowest_share))
    absolute_ms, relative = mean_errors(predictor, LLAMA_8B, phase, slowest_share=slowest_share)
    assert absolute_ms <= most_ms
    assert relative <= 0.05


@pytest.mark.parametrize("phase", [Phase.DECODE, Phase.PREFILL])
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_is_accurate_for_other_models_and_devices(case, phase):
    predictor = EcoPred.from_datasheet(case.datasheet())
    taught(predictor, outcomes(case, phase, 500, seed=3))
    _, relative = mean_errors(predictor, case, phase)
    assert relative <= 0.05


def sits_at_one_clock(count, phase, clock_share):
    """Errors over all clocks before and after `count` iterations at one of them."""
    predictor = taught(warm(), outcomes(LLAMA_8B, phase, 500, seed=4))
    before_ms, _ = mean_errors(predictor, LLAMA_8B, phase)
    clock_mhz = clock_share * 1410.0
    taught(predictor, outcomes(LLAMA_8B, phase, count, seed=5, clock_mhz=clock_mhz))
    after_ms, _ = mean_errors(predictor, LLAMA_8B, phase)
    return before_ms, after_ms


@pytest.mark.parametrize("clock_share", [1.0, 0.72])
@pytest.mark.parametrize(("phase", "most_ms"), [(Phase.DECODE, 2.0), (Phase.PREFILL, 7.0)])
def test_a_long_stay_at_one_clock_does_not_spoil_the_others(phase, most_ms, clock_share):
    before_ms, after_ms = sits_at_one_clock(10_000, phase, clock_share)
    assert after_ms <= min(most_ms, 3 * before_ms)


@pytest.mark.slow
@pytest.mark.parametrize("clock_share", [1.0, 0.72])
@pytest.mark.parametrize(("phase", "most_ms"), [(Phase.DECODE, 2.0), (Phase.PREFILL, 7.0)])
def test_100_000_steps_at_one_clock_do_not_spoil_the_others(phase, most_ms, clock_share):
    before_ms, after_ms = sits_at_one_clock(100_000, phase, clock_share)
    assert after_ms <= min(most_ms, 3 * before_ms)


def test_the_bound_holds_about_as_often_as_it_says():
    predictor = taught(warm(), outcomes(LLAMA_8B, Phase.DECODE, 1000, seed=6))
    held = [
        bool(predictor.forecast(o.load, np.array([o.clock_mhz])).upper_s[0] >= o.latency_s)
        for o in outcomes(LLAMA_8B, Phase.DECODE, 1000, seed=7)
    ]
    assert 0.97 <= np.mean(held) < 1.0


@pytest.mark.parametrize("missing", ["peak_flops", "layers"])
def test_a_datasheet_names_what_it_lacks(missing):
    datasheet = {k: v for k, v in LLAMA_8B.datasheet().items() if k != missing}
    with pytest.raises(ConfigError, match=f"datasheet.{missing} is missing"):
        EcoPred.from_datasheet(datasheet)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_clock_mhz": 0.0}, "max_clock_mhz = 0.0 is not allowed: must be above 0"),
        ({"bound_deviations": -1.0}, "bound_deviations = -1.0 is not allowed: must be 0 or more"),
        ({"forgetting": 1.5}, "forgetting = 1.5 is not allowed: must be in (0, 1]"),
    ],
)
def test_refuses_impossible_options(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        EcoPred(**options)


def test_random_loads_have_the_phase_they_should():
    rng = np.random.default_rng(0)
    for phase in (Phase.DECODE, Phase.PREFILL):
        assert random_load(rng, phase).phase is phase


# --- decoding beside prompts


def costly_beside(load: Load, clock_mhz: float) -> float:
    """An engine whose attention kernel for prompts takes long for decoding requests."""
    rows_s = 5e-3 + 5e-5 * (load.prefill_tokens + load.decode_requests) * 1410.0 / clock_mhz
    return rows_s + 2.7e-3 * load.decode_requests


def test_what_decoding_costs_beside_prompts_is_learned_from_mixed_batches_alone():
    rng = np.random.default_rng(1)
    model, errors, means = EcoPred(), [], []
    for step in range(400):
        requests = int(rng.integers(1, 33))
        kv_tokens = requests * int(rng.integers(500, 2500))
        clock_mhz = float(rng.choice([1005.0, 1200.0, 1410.0]))
        decode = Load.decode(requests, kv_tokens)
        model.learn(
            Outcome(
                load=decode, clock_mhz=clock_mhz, latency_s=5e-3 + 3e-9 * kv_tokens, ended_at_s=0.0
            )
        )
        tokens = 512 - requests
        load = Load(
            prefill_tokens=tokens, prefill_attended_pairs=tokens * (tokens + 1) / 2,
            decode_requests=requests, decode_kv_tokens=kv_tokens,
        )  # fmt: skip
        took_s = costly_beside(load, clock_mhz)
        if step >= 100:
            errors.append(abs(model.expected_s(load, clock_mhz) - took_s))
            means.append(took_s)
        model.learn(Outcome(load=load, clock_mhz=clock_mhz, latency_s=took_s, ended_at_s=0.0))
        alone_s = model.expected_s(decode, clock_mhz)
        assert step < 50 or alone_s == pytest.approx(5e-3 + 3e-9 * kv_tokens, rel=0.1)
    spread = np.abs(np.array(means) - np.mean(means)).mean()
    assert np.mean(errors) < 0.15 * spread
    frozen = LatencySnapshot.from_dict(json.loads(json.dumps(dict(model.snapshot().to_dict()))))
    clocks = np.array([1005.0, 1410.0])
    assert frozen.forecast(load, clocks).mean_s == pytest.approx(
        model.forecast(load, clocks).mean_s
    )
    assert (frozen.forecast(load, clocks).upper_s >= frozen.forecast(load, clocks).mean_s).all()


def test_a_model_of_an_earlier_version_takes_mixed_batches_to_cost_nothing_more():
    values = dict(EcoPred().snapshot().to_dict())
    del values["beside"]
    load = Load(
        prefill_tokens=100, prefill_attended_pairs=5050, decode_requests=9, decode_kv_tokens=99
    )
    assert np.isfinite(
        LatencySnapshot.from_dict(values).forecast(load, np.array([1410.0])).mean_s
    ).all()
