"""Labels of like iterations are learned as one: as much is learned, of less work."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.predictors.ecopred import EcoPred, linear
from voltana.predictors.ecopred.features import decode_features
from voltana.predictors.ecopred.like_labels import LIKE, LikeLabels
from voltana.predictors.ecopred.linear import MOST_GATHERED
from voltana.predictors.least_squares import DirectionalLeastSquares
from voltana.values import Load, Outcome

CLOCKS_MHZ = np.array([810.0, 1005.0, 1200.0, 1410.0])


def outcome(requests: int, kv_tokens: int, clock_mhz: float, latency_s: float) -> Outcome:
    return Outcome(
        load=Load.decode(requests, kv_tokens),
        clock_mhz=clock_mhz,
        latency_s=latency_s,
        ended_at_s=0.0,
    )


def latency_s(requests: int, kv_tokens: int, clock_mhz: float) -> float:
    return 0.008 + 6e-8 * kv_tokens + (1e-5 * requests + 0.004) * 1410.0 / clock_mhz


@given(
    st.lists(st.floats(0.5, 2.0), min_size=2, max_size=9),
    st.floats(0.1, 3.0),
    st.floats(-2.0, 2.0),
)
def test_a_mean_teaches_what_its_labels_teach(labels, x, prior):
    one_by_one, at_once = (
        DirectionalLeastSquares(
            features=("x",), prior_mean={"x": prior}, forgetting=1.0, outlier_deviations=1e9
        )
        for _ in range(2)
    )
    for label in labels:
        one_by_one.learn_vector(np.array([x]), label, 0.1)
    mean, deviation = sum(labels) / len(labels), 0.1 / len(labels) ** 0.5
    at_once.learn_vector(np.array([x]), mean, deviation, labels=len(labels))
    assert at_once.weights["x"] == pytest.approx(one_by_one.weights["x"])
    assert at_once.covariance == pytest.approx(one_by_one.covariance)


def test_a_mean_forgets_as_much_as_its_labels_do():
    one_by_one, at_once = (
        DirectionalLeastSquares(features=("x",), forgetting=0.98) for _ in range(2)
    )
    x = np.array([1.0])
    for model in (one_by_one, at_once):
        for _ in range(500):
            model.learn_vector(x, 1.0)
    for _ in range(8):
        one_by_one.learn_vector(x, 2.0)
    at_once.learn_vector(x, 2.0, 8**-0.5, labels=8)
    assert at_once.weights["x"] == pytest.approx(one_by_one.weights["x"], rel=0.02)


def gathering(requests: int = 120, kv_tokens: int = 60_000) -> LikeLabels:
    labels = LikeLabels()
    labels.begin(decode_features(requests, kv_tokens), 1200.0, 0.02, most_off=0.15)
    return labels


@pytest.mark.parametrize(
    ("requests", "kv_tokens", "clock_mhz", "latency_s"),
    [
        (120, int(60_000 * (1 + 2 * LIKE)), 1200.0, 0.02),
        (128, 60_000, 1200.0, 0.02),  # no new tile, yet 8 rows of 120 more
        (129, 60_000, 1200.0, 0.02),
        (120, 60_000, 1215.0, 0.02),
        (120, 60_000, 1200.0, 0.024),
        (120, 60_000, 1200.0, 0.016),
    ],
)
def test_what_differs_is_not_gathered(requests, kv_tokens, clock_mhz, latency_s):
    labels = gathering()
    assert not labels.add(decode_features(requests, kv_tokens), clock_mhz, latency_s)
    assert labels.take()[2] == [0.02]


def test_what_is_gathered_is_the_mean_of_its_features():
    labels = gathering()
    assert labels.add(decode_features(118, 60_240), 1201.0, 0.021)
    features, clock_mhz, latencies_s = labels.take()
    assert features == [1.0, 120.0, 2, 1, 0.0, 60_120.0]
    assert (clock_mhz, latencies_s) == (1200.0, [0.02, 0.021])
    assert not labels.add(decode_features(118, 60_240), 1201.0, 0.021)


def test_experts_that_are_read_tell_batches_apart():
    labels = LikeLabels()
    labels.begin(decode_features(4, 4000, 0.05), 1200.0, 0.02, most_off=0.15)
    assert not labels.add(decode_features(5, 4000, 0.05), 1200.0, 0.02)


def test_the_first_labels_are_learned_at_once():
    predictor, load = EcoPred(), Load.decode(64, 30_000)
    for _ in range(3):
        before_s = predictor.forecast(load, CLOCKS_MHZ).mean_s.copy()
        predictor.learn(outcome(64, 30_000, 1410.0, 0.02))
        assert (predictor.forecast(load, CLOCKS_MHZ).mean_s != before_s).any()


def test_no_label_is_lost_and_none_waits_for_long():
    predictor, load = EcoPred(), Load.decode(64, 30_000)
    rng, changed = np.random.default_rng(0), []
    last_s = predictor.expected_s(load, 1410.0)
    for n in range(1, 400):
        predictor.learn(outcome(64, 30_000, 1410.0, 0.02 * float(rng.lognormal(0.0, 0.03))))
        assert predictor.labels[1] == n
        expected_s = predictor.expected_s(load, 1410.0)
        if expected_s != last_s:
            changed.append(n)
        last_s = expected_s
    assert max(np.diff(changed)) <= MOST_GATHERED
    assert len(changed) < 200  # most labels are learned with others


def test_as_much_is_learned_as_one_by_one():
    rng = np.random.default_rng(1)
    predictor, errors = EcoPred(), []
    batch = 100
    for _ in range(3000):
        batch = int(np.clip(batch + rng.integers(-1, 2), 1, 250))
        clock_mhz = float(rng.choice(CLOCKS_MHZ)) if rng.random() < 0.02 else 1200.0
        true_s = latency_s(batch, 400 * batch, clock_mhz)
        errors.append(predictor.expected_s(Load.decode(batch, 400 * batch), clock_mhz) / true_s - 1)
        noise = float(rng.lognormal(0.0, 0.03))
        predictor.learn(outcome(batch, 400 * batch, clock_mhz, true_s * noise))
    assert np.mean(np.abs(errors[1000:])) < 0.01


@pytest.mark.parametrize("factor", [0.7, 1.1, 1.3, 1.6])
def test_a_changed_machine_is_seen_as_soon_as_one_by_one(monkeypatch, factor):
    def seen_s(most_gathered: int) -> list[float]:
        monkeypatch.setattr(linear, "MOST_GATHERED", most_gathered)
        predictor, load = EcoPred(), Load.decode(100, 40_000)
        rng, expected_s = np.random.default_rng(2), []
        for n in range(1300):
            true_s = 0.02 * (factor if n >= 1000 else 1.0)
            label_s = true_s * float(rng.lognormal(0.0, 0.03))
            predictor.learn(outcome(100, 40_000, 1200.0, label_s))
            expected_s.append(predictor.expected_s(load, 1200.0))
        return expected_s[1000 + MOST_GATHERED :]

    one_by_one, gathered = np.array(seen_s(1)), np.array(seen_s(MOST_GATHERED))
    # What waits is seen so many labels later, and no more is lost.
    late = one_by_one[:-MOST_GATHERED]
    ahead = gathered[MOST_GATHERED:] - late
    assert (ahead * np.sign(factor - 1.0) > -0.01 * 0.02).all()


def test_outliers_are_clipped_as_those_of_single_labels_are():
    predictor, load = EcoPred(), Load.decode(100, 40_000)
    rng = np.random.default_rng(3)
    for n in range(2000):
        hiccup = 10.0 if n % 50 == 49 else 1.0
        label_s = 0.02 * hiccup * float(rng.lognormal(0.0, 0.01))
        predictor.learn(outcome(100, 40_000, 1200.0, label_s))
    assert predictor.expected_s(load, 1200.0) == pytest.approx(0.02, rel=0.05)
