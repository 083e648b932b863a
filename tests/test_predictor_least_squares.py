"""Recursive least squares, alone and behind river's interface."""

import importlib.util
import re
import sys
import types
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.checks import yield_checks
from scipy.optimize import nnls

from voltana.errors import ConfigError
from voltana.predictors.least_squares import RecursiveLeastSquares
from voltana.predictors.river_regressor import DirectionalLeastSquares

ESTIMATORS = [
    DirectionalLeastSquares(),
    DirectionalLeastSquares(nonnegative=True, prior_deviation=10.0, forgetting=0.9),
]


def river_checks(estimator):
    """Every check that river has for `estimator`.

    River imports scikit-learn there, for the data of multi-target regressors alone; it is none of
    this project's dependencies, so an empty module stands in where it is absent.
    """
    absent = importlib.util.find_spec("sklearn") is None
    stand_in = types.ModuleType("sklearn")
    stand_in.datasets = types.ModuleType("sklearn.datasets")
    with mock.patch.dict(sys.modules, {"sklearn": stand_in} if absent else {}):
        return [
            check
            for check in yield_checks(estimator)
            if check.__name__ not in estimator._unit_test_skips()
        ]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{index}-{check.__name__}")
        for index, estimator in enumerate(ESTIMATORS)
        for check in river_checks(estimator)
    ],
)
def test_passes_rivers_estimator_checks(estimator, check):
    check(estimator.clone())


def learner(n, **options):
    return RecursiveLeastSquares(np.zeros(n), np.ones(n), **options)


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
    squares = learner(3, forgetting=forgetting, nonnegative=np.ones(3, dtype=bool))
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
    squares = learner(4, forgetting=1.0, nonnegative=np.ones(4, dtype=bool))
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
    squares = RecursiveLeastSquares(np.array([0.25, 0.0]), np.array([0.0, 1.0]))
    taught(squares, random_samples(200, 2, truth=np.array([0.5, 0.5])))
    assert squares.coefficients[0] == 0.25


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((np.zeros(2), np.ones(3)), "prior_deviation = (3,) is not allowed: must be of shape (2,)"),
        ((np.zeros(1), -np.ones(1)), "must be finite and not negative"),
        ((np.full(1, np.nan), np.ones(1)), "must be finite and not negative"),
    ],
)
def test_refuses_impossible_priors(arguments, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        RecursiveLeastSquares(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"forgetting": 0.0}, "forgetting = 0.0 is not allowed: must be in (0, 1]"),
        ({"outlier_deviations": 0.0}, "outlier_deviations = 0.0 is not allowed: must be above 0"),
    ],
)
def test_refuses_impossible_options(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        learner(1, **options)


def test_the_river_regressor_reports_its_coefficients_by_name():
    model = DirectionalLeastSquares(prior_mean={"a": 2.0}, noise=0.01)
    assert model.predict_one({"a": 3.0, "b": 1.0}) == pytest.approx(6.0)
    for a in (1.0, 2.0, 3.0):
        model.learn_one({"a": a, "b": 1.0}, 2.0 * a + 0.5)
    assert model.coefficients == pytest.approx({"a": 2.0, "b": 0.5}, abs=0.01)
