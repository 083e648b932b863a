"""The examples of docs/predictors.md run, and what the page says of imports holds."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

from voltana.predictors import least_squares
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred, predictor, transformer
from voltana.predictors.ecopred.features import BASIS_NAMES, DECODE_NAMES, FEATURES, PREFILL_NAMES

PAGE = Path(__file__).parent.parent / "docs" / "predictors.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 4
    assert isinstance(names["profile"].decode.errors.samples, int)
    assert (tmp_path / "llama.json").exists()


@pytest.mark.parametrize("module", [least_squares, predictor, transformer])
def test_the_examples_of_docstrings_run(module):
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


def test_every_feature_has_a_name():
    assert len(BASIS_NAMES) * len(DECODE_NAMES) == FEATURES
    assert len(BASIS_NAMES) * len(PREFILL_NAMES) == FEATURES


SCIENTIFIC = {"scipy", "narwhals", "pandas", "pydantic", "control", "matplotlib"}
RIVER = {"river", "river.base", "river.base.base"}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import voltana.predictors", SCIENTIFIC | RIVER),
        ("from voltana.predictors.ecopred import LatencySnapshot", SCIENTIFIC | RIVER),
        ("import voltana.predictors.ecopred.latency_model", SCIENTIFIC | RIVER),
        # Its base class is a light module of river's; the estimators are not loaded.
        (
            "from voltana.predictors import EcoPred; EcoPred().snapshot()",
            SCIENTIFIC | {"river.linear_model", "river.stats", "river.drift", "river.compose"},
        ),
    ],
)
def test_learning_and_forecasting_load_no_heavy_library(statement, heavy):
    program = f"import sys; {statement}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == ""


def test_a_wrapped_predictor_shows_in_the_wrapper():
    shown = "EcoPred(max_clock_mhz=1410, forgetting=0.98, bound_deviations=2.5)"
    assert repr(EcoPred()) == shown
    assert repr(DriftAware(EcoPred())) == f"DriftAware({shown}, delta=0.002)"
