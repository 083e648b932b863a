"""The examples of docs/predictors.md run, and what the page says of imports holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.ecopred.features import BASIS_NAMES, DECODE_NAMES, FEATURES, PREFILL_NAMES

PAGE = Path(__file__).parent.parent / "docs" / "predictors.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 3
    assert isinstance(names["profile"].decode.errors.samples, int)
    assert (tmp_path / "llama.json").exists()


def test_every_feature_has_a_name():
    assert len(BASIS_NAMES) * len(DECODE_NAMES) == FEATURES
    assert len(BASIS_NAMES) * len(PREFILL_NAMES) == FEATURES


@pytest.mark.parametrize(
    "statement",
    [
        "import voltana.predictors",
        "from voltana.predictors.ecopred import EcoPred; EcoPred().snapshot()",
        "from voltana.predictors.ecopred.latency_model import LatencySnapshot",
    ],
)
def test_learning_and_forecasting_need_neither_river_nor_scipy(statement):
    heavy = {"river", "scipy", "pydantic", "control", "matplotlib"}
    program = f"import sys; {statement}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == ""


def test_a_wrapped_predictor_shows_in_the_wrapper():
    shown = "EcoPred(max_clock_mhz=1410, prefill_labels=0, decode_labels=0)"
    assert repr(EcoPred()) == shown
    assert repr(DriftAware(EcoPred())) == f"DriftAware({shown}, delta=0.002)"
