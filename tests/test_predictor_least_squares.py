"""Directionally forgetting least squares: its algorithm, and river's own checks of estimators."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import base
from river.checks import yield_checks
from scipy.optimize import nnls

from voltana.errors import ConfigError
from voltana.predictors import DirectionalLeastSquares, EcoPred, LatencyFeatures
from voltana.predictors.ecopred.features import PREFILL_PRODUCTS

NAMED = {
    "default": DirectionalLeastSquares(),
    "with signs": DirectionalLeastSquares(nonnegative=True, prior_deviation=10.0, forgetting=0.9),
    "with features": DirectionalLeastSquares(
        features=("a", "b"), prior_mean={"a": 2.0}, prior_deviation={"a": 1.0}
    ),
}
# The very instance that EcoPred learns prefill with.
NAMED["EcoPred's own"] = EcoPred()._learner.prefill.squares
ESTIMATORS = NAMED | {
    "its features": LatencyFeatures(),
    "its features, scaled": LatencyFeatures(1980.0, scaled=True),
    "a pipeline of both": LatencyFeatures() | DirectionalLeastSquares(),
}


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{name}-{check.__name__}")
        for name, estimator in ESTIMATORS.items()
        for check in yield_checks(estimator)
    ],
)
def test_passes_rivers_estimator_checks(estimator, check):
    check(estimator.clone())


def test_what_ecopred_learns_with_is_a_river_regressor_with_its_features_by_name():
    squares = EcoPred()._learner.prefill.squares
    assert isinstance(squares, base.Regressor)
    assert tuple(squares.weights) == PREFILL_PRODUCTS


def learner(n, **options):
    return DirectionalLeastSquares(features=tuple(range(n)), **options)


def random_samples(count, n, *, truth, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    for x in rng.uniform(0.0, 1.0, (count, n)):
        yield x, float(x @ truth + rng.normal(0, noise))


def taught(squares, samples, deviation=0.01):
    for x, y in samples:
        squares.learn_vector(x, y, deviation)
    return squares


def test_finds_the_coefficients():
    truth = np.array([0.3, 0.0, 0.7])
    squares = taught(learner(3), random_samples(300, 3, truth=truth))
    assert squares.coefficients == pytest.approx(truth, abs=0.01)


def test_equals_ridge_regression_without_forgetting():
    truth = np.array([0.5, -0.4])
    samples = list(random_samples(50, 2, truth=truth, noise=0.05))
    squares = taught(learner(2, forgetting=1.0, outlier_deviations=1e9), samples, deviation=0.05)
    x, y = (np.array(part) for part in zip(*samples, strict=True))
    precision = x.T @ x / 0.05**2 + np.eye(2)
    assert squares.coefficients == pytest.approx(np.linalg.solve(precision, x.T @ y / 0.05**2))
    assert squares.covariance == pytest.approx(np.linalg.inv(precision), rel=1e-6)


@pytest.mark.parametrize("forgetting", [0.9, 0.995])
def test_does_not_forget_what_the_data_do_not_excite(forgetting):
    truth = np.array([0.5, 0.4])
    squares = taught(learner(2, forgetting=forgetting), random_samples(500, 2, truth=truth))
    before = squares.coefficients.copy()
    along = np.array([1.0, 1.0])
    rng = np.random.default_rng(1)
    for noise in rng.normal(0, 0.01, 20_000):
        squares.learn_vector(along, float(along @ truth + noise), 0.01)
    across = np.array([1.0, -1.0])
    assert across @ squares.coefficients == pytest.approx(across @ before, abs=0.02)


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(0.0, 1e4), min_size=3, max_size=3),
            st.floats(0.0, 1e4),
            st.floats(1e-3, 1e3),
        ),
        max_size=60,
    ),
    st.floats(0.5, 1.0),
)
def test_the_covariance_stays_bounded_and_the_signs_hold(samples, forgetting):
    squares = learner(3, forgetting=forgetting, nonnegative=True)
    for x, y, deviation in samples:
        squares.learn_vector(np.array(x), y, deviation)
        assert (squares.coefficients >= 0).all()
        assert np.isfinite(squares.coefficients).all()
        covariance = squares.covariance
        assert (covariance.diagonal() <= 1 + 1e-6).all()
        assert np.linalg.eigvalsh(covariance)[0] >= -1e-6


def test_one_direction_for_long_neither_inflates_nor_breaks_the_covariance():
    squares = learner(3, forgetting=0.99)
    rng = np.random.default_rng(0)
    for noise in rng.normal(0, 0.01, 20_000):
        squares.learn_vector(np.array([1.0, 0.5, 0.25]), 1.0 + noise, 0.01)
    eigenvalues = np.linalg.eigvalsh(squares.covariance)
    assert eigenvalues[0] > 0
    assert np.trace(squares.covariance) <= 3 + 1e-6


def test_sign_constraints_keep_the_accuracy():
    """As good on new data as the exact non-negative fit, where the free one has negative signs."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.0, 1.0, (400, 1))
    x = np.column_stack([base, base + rng.normal(0, 0.05, (400, 3))])
    y = x @ np.array([0.0, 1.0, 0.0, 0.5]) + rng.normal(0, 0.05, 400)
    squares = learner(4, forgetting=1.0, nonnegative=True)
    taught(squares, zip(x[:300], y[:300], strict=True), deviation=0.05)
    exact, _ = nnls(x[:300], y[:300])
    errors = [
        float(np.sqrt(np.mean((x[300:] @ c - y[300:]) ** 2))) for c in (squares.coefficients, exact)
    ]
    assert errors[0] <= 1.05 * errors[1]


@pytest.mark.parametrize("tolerance", [1.0, 30.0])
def test_follows_a_lasting_change_if_told_to_tolerate_it(tolerance):
    truth, changed = np.array([0.2, 0.6]), np.array([0.5, 0.1])
    squares = taught(learner(2, forgetting=0.98), random_samples(500, 2, truth=truth))
    for x, y in random_samples(500, 2, truth=changed, seed=1):
        squares.learn_vector(x, y, 0.01, tolerance=tolerance)
    arrived = squares.coefficients == pytest.approx(changed, abs=0.03)
    assert arrived == (tolerance > 1)


def test_an_outlier_moves_little():
    truth = np.array([0.3, 0.5])
    squares = taught(learner(2), random_samples(200, 2, truth=truth))
    innovation = squares.learn_vector(np.array([0.5, 0.5]), 1e3, 0.01)
    assert innovation > 1e4
    assert squares.coefficients == pytest.approx(truth, abs=0.02)


def test_reopening_grows_the_covariance_up_to_the_prior():
    squares = taught(learner(2), random_samples(200, 2, truth=np.array([0.3, 0.5])))
    before = squares.covariance
    squares.reopen(2.0)
    assert squares.covariance == pytest.approx(2.0 * before)
    squares.reopen(1e9)
    assert squares.covariance.diagonal() == pytest.approx(np.ones(2))
    assert np.linalg.eigvalsh(squares.covariance)[0] >= -1e-12


def test_a_deviation_of_zero_fixes_a_coefficient():
    squares = learner(2, prior_mean={0: 0.25}, prior_deviation={1: 1.0})
    taught(squares, random_samples(200, 2, truth=np.array([0.5, 0.5])))
    assert squares.coefficients[0] == 0.25


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior_deviation": -1.0}, "must be finite and not negative"),
        ({"prior_deviation": np.nan}, "must be finite and not negative"),
        ({"prior_mean": {0: np.nan}}, "prior_mean = array([nan]) is not allowed: must be finite"),
        ({"noise": 0.0}, "noise = 0.0 is not allowed: must be above 0"),
        ({"forgetting": 0.0}, "forgetting = 0.0 is not allowed: must be in (0, 1]"),
        ({"outlier_deviations": 0.0}, "outlier_deviations = 0.0 is not allowed: must be above 0"),
    ],
)
def test_refuses_impossible_options(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        learner(1, **options)


def test_refuses_a_feature_named_twice():
    with pytest.raises(ConfigError, match=r"must be without repetition\. Name each feature once"):
        DirectionalLeastSquares(features=("a", "a"))


def test_reports_its_coefficients_by_name():
    model = DirectionalLeastSquares(prior_mean={"a": 2.0}, noise=0.01)
    assert model.predict_one({"a": 3.0, "b": 1.0}) == pytest.approx(6.0)
    for a in (1.0, 2.0, 3.0):
        model.learn_one({"a": a, "b": 1.0}, 2.0 * a + 0.5)
    assert model.weights == pytest.approx({"a": 2.0, "b": 0.5}, abs=0.01)


samples_by_name = st.lists(
    st.tuples(st.lists(st.floats(0.0, 10.0), min_size=6, max_size=6), st.floats(0.0, 50.0)),
    max_size=30,
)


@given(samples_by_name, st.lists(st.floats(0.0, 5.0), min_size=3, max_size=3), st.booleans())
def test_by_name_and_by_vector_are_one_algorithm(samples, load, nonnegative):
    """Whichever entry taught it, it predicts the same, one regressor at a time or all at once."""
    names = tuple("abcdef")
    by_name, by_vector = (
        DirectionalLeastSquares(features=names, nonnegative=nonnegative) for _ in range(2)
    )
    for values, y in samples:
        by_name.learn_one(dict(reversed(list(zip(names, values, strict=True)))), y)
        by_vector.learn_vector(np.array(values), y)
    assert by_vector.coefficients.tolist() == by_name.coefficients.tolist()
    bases = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 1.0, 1.5, 7.0]])
    each = [
        by_name.predict_one(dict(zip(names, np.outer(column, load).ravel(), strict=True)))
        for column in bases.T
    ]
    assert by_vector.predict_products(load, bases) == pytest.approx(each, abs=1e-9)


def _plainly_updated(model, along, spread):
    """The covariance after a sample, with every step of the formula taken."""
    kept, covariance = model.forgetting, model._covariance
    gain = (kept - (1.0 - kept) / spread) / (kept * (1.0 + spread))
    outer = along[:, None] * along
    changed = covariance - outer * gain
    if gain < 0.0 and changed.diagonal().max() > 1.0 - 1e-9:
        room = (1.0 - covariance.diagonal()) / (along * along + 1e-300)
        gain = max(gain, -max(float(room.min()), 0.0))
        changed = covariance - outer * gain
    return changed


@pytest.mark.parametrize("excited", [6, 4])
def test_steps_of_the_covariance_that_are_left_out_change_no_bit(excited):
    """Those of a sample by which nothing is forgotten, as one direction is at its prior still."""
    rng = np.random.default_rng(excited)
    model = DirectionalLeastSquares(features="abcdef", noise=0.05, forgetting=0.98)
    left_out = 0
    for _ in range(400):
        x = rng.uniform(0.5, 1.5) * np.ones(6) + 0.02 * rng.standard_normal(6)
        x[excited:] = 0.0
        scaled = x * model._deviation * (1.0 / 0.05)
        along = model._covariance.dot(scaled)
        expected = _plainly_updated(model, along, float(scaled.dot(along)))
        before = model._covariance
        model.learn_vector(x, float(x.sum()), 0.05)
        assert np.array_equal(model._covariance, expected)
        left_out += model._covariance is before
        if rng.random() < 0.01:
            model.reopen(2.0)
    assert bool(left_out) == (excited < 6)
