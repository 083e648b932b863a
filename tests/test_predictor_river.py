"""EcoPred as a river regressor, and river's regressors in the place of its own."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
from river import base, checks, compose, evaluate, linear_model, metrics, preprocessing, tree

from tests.latency_plants import Case, outcomes
from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.predictors import Conformal, DriftAware, EcoPred, LatencyFeatures, RiverPredictor
from voltana.predictors.ecopred.features import DECODE_PRODUCTS, regressor
from voltana.testing import samples
from voltana.values import Load, Outcome, Phase

LLAMA_8B = Case("a100-sxm4-80gb", "llama-3.1-8b", 1)
PAIR = Load.decode(64, 40_000)


def by_name(outcome):
    load = outcome.load
    fields = {name: getattr(load, name) for name in Load.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value} | {
        "clock_mhz": outcome.clock_mhz
    }


def stream(count, seed=0):
    return [(by_name(o), o.latency_s) for o in samples.outcomes(count, seed)]


def warm():
    return EcoPred.from_datasheet(LLAMA_8B.datasheet())


def pipeline():
    return preprocessing.MaxAbsScaler() | linear_model.LinearRegression()


SUBSTITUTES = {
    "Bayesian": linear_model.BayesianLinearRegression,
    "pipeline": pipeline,
    "tree": tree.HoeffdingTreeRegressor,
}


def river_checks(estimator):
    """River's checks, fed with iterations: EcoPred refuses features of anything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "_yield_datasets", lambda model, scale=1: [stream(200 * scale)])
        return list(checks.yield_checks(estimator))


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{name}-{check.__name__}")
        for name, estimator in (("cold", EcoPred()), ("warm", warm()))
        for check in river_checks(estimator)
    ],
)
def test_passes_rivers_estimator_checks_on_iterations(estimator, check):
    check(estimator.clone())


def test_one_iteration_is_learned_as_an_outcome_is():
    by_river, by_port = warm(), warm()
    for outcome in samples.outcomes(100):
        by_river.learn_one(by_name(outcome), outcome.latency_s)
        by_port.learn(outcome)
    for name, load in samples.LOADS.items():
        mine, other = (p.forecast(load, samples.clocks()) for p in (by_river, by_port))
        assert samples.same_forecast(mine, other), name
        label = Outcome(load=load, clock_mhz=1200.0, latency_s=1.0, ended_at_s=0.0)
        assert by_river.predict_one(by_name(label)) == by_port.expected_s(load, 1200.0)


def test_absent_fields_are_0():
    assert warm().predict_one({"clock_mhz": 1410.0}) == 0.0
    assert warm().predict_one({}) == 0.0
    assert warm().predict_one({"decode_requests": 8}) == math.inf
    alone = {"decode_requests": 8, "clock_mhz": 1410.0}
    zeros = {"prefill_tokens": 0, "prefill_attended_pairs": 0.0, "decode_kv_tokens": 0}
    assert warm().predict_one(alone) == warm().predict_one(alone | zeros) > 0


@pytest.mark.parametrize("method", ["predict_one", "learn_one"])
def test_other_keys_are_refused_by_name(method):
    predictor = warm()
    arguments = [{"decode_requests": 8, "clock_mhz": 1410.0, "decode_tokens": 3}, 0.02]
    text = "unknown feature 'decode_tokens'. Did you mean 'decode_kv_tokens'? Choose one of: "
    with pytest.raises(UnknownNameError, match=re.escape(text)):
        getattr(predictor, method)(*arguments[: 1 if method == "predict_one" else 2])
    assert predictor.labels == (0, 0)


def test_rivers_evaluation_and_metrics_work():
    score = evaluate.progressive_val_score(stream(1000), warm(), metrics.MAE())
    assert score.get() < 0.006
    cold = evaluate.progressive_val_score(stream(1000), EcoPred(), metrics.R2())
    assert cold.get() > 0.9


def test_it_ends_a_pipeline():
    chosen = compose.Discard("queue") | EcoPred()
    assert isinstance(chosen, base.Regressor)
    plain = EcoPred()
    for x, y in stream(200):
        chosen.learn_one(x | {"queue": 3.0}, y)
        plain.learn_one(x, y)
    x, _ = stream(1, seed=9)[0]
    assert chosen.predict_one(x | {"queue": 1.0}) == plain.predict_one(x)


def test_a_clone_has_the_prior_and_none_of_the_labels():
    predictor = warm()
    asked = by_name(next(samples.outcomes(1, seed=3)))
    before = predictor.predict_one(asked)
    for x, y in stream(50):
        predictor.learn_one(x, y)
    clone = predictor.clone()
    assert clone.predict_one(asked) == before != predictor.predict_one(asked)
    assert (clone.labels, predictor.labels) == ((0, 0), (25, 25))
    assert repr(clone) == repr(predictor)
    narrower = predictor.clone({"bound_deviations": 1.0})
    assert narrower.bound_deviations == 1.0


def test_features_are_the_products_that_it_learns_with():
    x = {"decode_requests": 64, "decode_kv_tokens": 40_000, "clock_mhz": 705.0}
    made = LatencyFeatures().transform_one(x | {"of something else": 1.0})
    assert tuple(made) == DECODE_PRODUCTS
    expected = regressor([1.0, 64, 1, 1, 0.0, 40_000], 705.0, 1410.0)
    assert list(made.values()) == expected.tolist()
    scaled = LatencyFeatures(scaled=True).transform_one(x).values()
    assert max(scaled) <= 2.0
    assert LatencyFeatures().transform_one({}) == {}


def test_without_a_clock_the_products_with_it_are_0():
    made = LatencyFeatures().transform_one({"prefill_tokens": 64})
    assert made["prefill.constant.tokens"] == 64
    assert {v for name, v in made.items() if ".constant." not in name} == {0.0}


def test_a_mixed_batch_has_the_features_of_one_pass_and_of_its_cache():
    made = LatencyFeatures().of_load(samples.LOADS["a mixed batch"], 1410.0)
    assert made["prefill.constant.tokens"] == 2048 + 48
    assert made["decode.constant.kv_tokens"] == 30_000
    assert "decode.constant.iteration" not in made


@pytest.mark.parametrize("name", SUBSTITUTES)
def test_any_river_regressor_takes_its_place(name):
    predictor = EcoPred(regressor=SUBSTITUTES[name]())
    assert (predictor.forecast(PAIR, samples.clocks()).upper_s == math.inf).all()
    for outcome in outcomes(LLAMA_8B, Phase.DECODE, 400, seed=1):
        predictor.learn(outcome)
    later = list(outcomes(LLAMA_8B, Phase.DECODE, 100, seed=2))
    errors = [abs(predictor.expected_s(o.load, o.clock_mhz) / o.latency_s - 1) for o in later]
    assert np.mean(errors) < 0.15
    assert predictor.labels == (0, 400)
    score = evaluate.progressive_val_score(stream(20), predictor.clone(), metrics.MAE())
    assert math.isfinite(score.get())
    assert SUBSTITUTES[name]().__class__.__name__ in repr(predictor) or name == "pipeline"


def test_a_substitute_is_believed_only_at_clocks_that_were_tried():
    predictor = EcoPred(regressor=tree.HoeffdingTreeRegressor())
    label = Outcome(load=PAIR, clock_mhz=1200.0, latency_s=0.03, ended_at_s=0.0)
    for _ in range(60):
        predictor.learn(label)
    slow, tried, fast = predictor.forecast(PAIR, np.array([600.0, 1200.0, 1410.0])).upper_s
    assert slow == pytest.approx(2 * tried)
    assert fast >= tried >= 0.03


def test_drift_and_the_guarantee_wrap_a_substitute_as_they_wrap_its_own():
    predictor = Conformal(
        DriftAware(EcoPred(regressor=linear_model.BayesianLinearRegression())), first=0.15
    )
    for outcome in samples.outcomes(200):
        predictor.learn(outcome)
    predictor.predictor.predictor.reopen()
    forecast = predictor.forecast(PAIR, samples.clocks())
    assert np.isfinite(forecast.upper_s).all()
    copied = pickle.loads(pickle.dumps(predictor))
    assert samples.same_forecast(copied.forecast(PAIR, samples.clocks()), forecast)


def test_a_regressor_brings_its_own_prior():
    prior = warm().prefill
    with pytest.raises(ConfigError, match=r"must be None where a prior is given\. Leave the prior"):
        EcoPred(prefill=prior, regressor=linear_model.LinearRegression())


def test_a_river_regressor_needs_the_two_methods():
    for make in (RiverPredictor, lambda regressor: EcoPred(regressor=regressor)):
        with pytest.raises(ConfigError, match=r"must have learn_one\(\) and predict_one\(\)"):
            make(object())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (linear_model.LinearRegression, r"LinearRegression .*an instance\. Call it"),
        (EcoPred(), "EcoPred .*latency model of its own"),
        (linear_model.LogisticRegression(), "must be a regressor"),
        (preprocessing.StandardScaler() | linear_model.LogisticRegression(), "must be a regressor"),
    ],
)
def test_what_is_no_regressor_is_refused_before_it_learns(given, said):
    with pytest.raises(ConfigError, match=said):
        EcoPred(regressor=given)


class Singular(base.Regressor):
    """Raises at its third label, and from then on."""

    def __init__(self):
        self.learned = 0

    def learn_one(self, x, y):
        self.learned += 1
        if self.learned > 2:
            raise np.linalg.LinAlgError("Singular matrix")

    def predict_one(self, x):
        return 10.0


def test_a_regressor_whose_arithmetic_fails_starts_anew():
    predictor = RiverPredictor(Singular())
    for outcome in samples.outcomes(200):
        predictor.learn(outcome)
        forecast = predictor.forecast(PAIR, samples.clocks())
        assert not np.isnan(forecast.upper_s).any()
    assert all(labels <= 4 for labels in predictor.labels)  # of what it has forgotten, none


class Fails(base.Regressor):
    """Learns the mean; after so many labels its arithmetic fails for good, in predictions too.

    Args:
        how: What it raises, or predicts, then.
    """

    def __init__(self, how):
        self.how = how
        self.learned, self.mean = 0, 0.0

    def learn_one(self, x, y):
        self.learned += 1
        self.mean += (y - self.mean) / self.learned

    def predict_one(self, x):
        if self.learned <= 40:
            return self.mean
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    "how",
    [ValueError("math domain error"), ZeroDivisionError(), np.linalg.LinAlgError(), math.nan,
     -math.inf],
    ids=repr,
)  # fmt: skip
def test_a_regressor_that_predicts_no_more_numbers_starts_anew(how):
    predictor, known = RiverPredictor(Fails(how)), []
    for outcome in samples.outcomes(400):
        upper_s = predictor.forecast(PAIR, samples.clocks()).upper_s
        assert not np.isnan(upper_s).any()
        known.append(bool(np.isfinite(upper_s).any()))
        predictor.learn(outcome)
    assert any(known[len(known) // 2 :])  # it did not stay without a bound
    assert not all(known[len(known) // 2 :])


def test_clocks_of_before_a_new_start_are_not_believed_after_it():
    predictor = RiverPredictor(Singular())
    fast, slow = samples.clocks()[-1], samples.clocks()[0]
    like = next(outcome for outcome in samples.outcomes(9) if outcome.load.decode_requests)
    for clock_mhz in [slow] * 8 + [fast] * 8:
        predictor.learn(dataclasses.replace(like, clock_mhz=clock_mhz))
    clocks = predictor._phases[like.load.phase].clocks
    assert (clocks.slowest_mhz, clocks.fastest_mhz) == (fast, fast)


class Silent(base.Regressor):
    """Has no prediction, as some regressors before they learned."""

    def learn_one(self, x, y):
        pass

    def predict_one(self, x):
        return None


def test_a_regressor_without_a_prediction_yet_bounds_nothing():
    predictor = EcoPred(regressor=Silent())
    predictor.learn_one(USUAL, 0.02)
    assert predictor.predict_one(USUAL) == math.inf
    assert np.all(predictor.forecast(PAIR, samples.clocks()).upper_s == math.inf)


USUAL = {"decode_requests": 64, "decode_kv_tokens": 40_000, "clock_mhz": 1410.0}


@pytest.mark.parametrize("number", [np.int64(64), np.float32(64.0), np.array(64), True, 64.0])
def test_numbers_may_be_of_any_type(number):
    predictor = warm()
    predictor.learn_one(USUAL | {"decode_requests": number}, np.float32(0.02))
    assert predictor.labels == (0, 1)
    assert 0.0 < predictor.predict_one(USUAL | {"decode_requests": number}) < 1.0


@pytest.mark.parametrize("value", [None, "64", b"64", [64], np.array([1.0, 2.0]), 10**400])
@pytest.mark.parametrize("name", ["decode_requests", "clock_mhz"])
def test_what_is_no_number_is_refused_by_name(name, value):
    for call in (warm().predict_one, lambda x: warm().learn_one(x, 0.02)):
        with pytest.raises(ConfigError, match=f"{name} = .*must be a number"):
            call(USUAL | {name: value})
    with pytest.raises(ConfigError, match=r"y = .*must be a number"):
        warm().learn_one(USUAL, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("name", USUAL)
def test_an_impossible_iteration_teaches_nothing_and_has_no_known_latency(name, value):
    predictor, untouched = warm(), warm()
    predictor.learn_one(USUAL | {name: value}, 0.02)
    assert predictor.labels == (0, 0)
    assert predictor.predict_one(USUAL | {name: value}) == math.inf
    assert predictor.predict_one(USUAL) == untouched.predict_one(USUAL)


@pytest.mark.parametrize("policy", ["voltana", "voltana-mdp"])
@pytest.mark.parametrize(
    "regressor", [None, linear_model.LinearRegression()], ids=["cold", "another's"]
)
def test_the_loop_and_its_routers_keep_working(policy, regressor):
    """Neither a model that knows nothing yet (0 s) nor a foreign one stops anything."""
    named = get_policy(policy)

    def control(context):
        learner = EcoPred(max_clock_mhz=context.table_mhz[-1], regressor=regressor)
        return named.control(dataclasses.replace(context, predictor=learner))

    workload = {"name": "sharegpt", "rate_rps": 40.0, "duration_s": 1.5}
    scenario = load_scenario(None, {"policies": [policy], "seed": 1, "workload": workload})
    simulation = Simulation(
        scenario.cluster,
        dataclasses.replace(named, control=control),
        scenario.trace,
        seed=1,
        plant=scenario.plant,
    )
    simulation.run()
    assert simulation.finished == len(scenario.trace) > 20
    labels = [i.runner.loop.predictor.predictor.labels for i in simulation.instances]
    prefill, decode = (sum(counts) for counts in zip(*labels, strict=True))
    assert min(prefill, decode) > 10
