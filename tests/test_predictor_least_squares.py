"""Recursive least squares, alone and behind river's interface."""

import importlib.util
import sys
import types
from unittest import mock

import pytest
from river.checks import yield_checks

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
