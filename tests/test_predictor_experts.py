"""A mixture of experts: how many of them a batch reads follows its size, and along no line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.latency_plants import Case, latency_model, outcomes
from voltana.errors import ConfigError
from voltana.predictors.ecopred import EcoPred, LatencyFeatures, LatencySnapshot
from voltana.predictors.ecopred.features import (
    DECODE_NAMES,
    EXPERTS,
    decode_features,
    decode_features_of,
    prefill_features,
    products,
    regressor,
)
from voltana.predictors.offline import fit_profile
from voltana.predictors.profile import Stack, load_profile, save_profile
from voltana.values import Load, Outcome, Phase

MODELS = Path(__file__).parent.parent / "benchmarks" / "models"
MIXTURES = [
    Case("a100-sxm4-80gb", str(MODELS / "qwen3-30b-a3b.json"), 1),
    Case("h200-sxm", str(MODELS / "deepseek-v2-lite.json"), 1),
]
DENSE = Case("a100-sxm4-80gb", "llama-3.1-8b", 1)
PLACE = DECODE_NAMES.index(EXPERTS)
STACK = Stack(hardware="h", model="m", engine="sglang", engine_version="0")


def small_batches(case, count=400, seed=1):
    """Labels of batches up to 20, over the upper half of the clocks."""
    rng = np.random.default_rng(seed)
    clocks_mhz = case.clocks_mhz(0.5)
    for i in range(count):
        batch, mhz = int(rng.integers(1, 21)), float(rng.choice(clocks_mhz))
        load = Load.decode(batch, batch * 1000)
        latency_s = latency_model(case).latency_s(load, mhz) * float(np.exp(rng.normal(0, 0.035)))
        yield Outcome(load=load, clock_mhz=mhz, latency_s=latency_s, ended_at_s=0.02 * i)


def taught(case):
    predictor = EcoPred.from_datasheet(case.datasheet())
    for outcome in small_batches(case):
        predictor.learn(outcome)
    return predictor


@pytest.mark.parametrize("case", MIXTURES, ids=lambda case: Path(case.model).stem)
@pytest.mark.parametrize("batch", [32, 64, 128])
def test_small_batches_tell_larger_ones(case, batch):
    fastest_mhz = case.clocks_mhz(0.5)[-1]
    load = Load.decode(batch, batch * 1000)
    expected_s = float(taught(case).forecast(load, np.array([fastest_mhz])).mean_s[0])
    assert expected_s == pytest.approx(latency_model(case).latency_s(load, fastest_mhz), rel=0.2)


def test_every_way_to_ask_says_the_same():
    case = MIXTURES[0]
    predictor = taught(case)
    frozen = predictor.snapshot()
    clocks_mhz = np.array([700.0, 1410.0])
    batches = np.array([4.0, 24.0, 200.0])
    means_s, _ = frozen.forecast_batches(batches, batches * 1000, clocks_mhz)
    for batch, row_s in zip(batches, means_s, strict=True):
        load = Load.decode(int(batch), int(batch) * 1000)
        assert predictor.forecast(load, clocks_mhz).mean_s == pytest.approx(row_s)
        for mhz, mean_s in zip(clocks_mhz, row_s, strict=True):
            assert predictor.expected_s(load, mhz) == pytest.approx(mean_s)
            assert frozen.mean_curve(load).mean_s(mhz) == pytest.approx(mean_s)
            line = frozen.mean_line(load.decode_requests, mhz)
            assert line.mean_s(load.decode_kv_tokens) == pytest.approx(mean_s)
            assert frozen.expected_s(load, mhz) == frozen.mean_curve(load).mean_s(mhz)
            assert frozen.alike(load.decode_requests) == load.decode_requests
    for outcome in outcomes(case, Phase.PREFILL, 200, seed=2):
        predictor.learn(outcome)
    prompt = Load.prefill([(40, 0)])
    mean_s = predictor.snapshot().prefill_mean(1410.0)(40, prompt.prefill_attended_pairs)
    assert predictor.expected_s(prompt, 1410.0) == pytest.approx(mean_s)
    mixed = Load(prefill_tokens=40, decode_requests=8, decode_kv_tokens=8000)
    forecast_s = float(predictor.forecast(mixed, clocks_mhz).mean_s[-1])
    assert predictor.expected_s(mixed, 1410.0) == pytest.approx(forecast_s)
    assert predictor.snapshot().expected_s(mixed, 1410.0) == pytest.approx(forecast_s)
    assert predictor.snapshot().expected_s(Load(), 1410.0) == 0.0


def test_batches_that_are_padded_alike_have_one_line_and_the_regressor_all_products():
    frozen = EcoPred().snapshot()
    assert frozen.alike(57) == frozen.alike(64) != frozen.alike(65)
    assert frozen.mean_line(57, 1410.0) == frozen.mean_line(64, 1410.0)
    features = decode_features(57, 20_000, 0.25)
    assert regressor(features, 900.0, 1410.0).tolist() == products(features, 900.0, 1410.0)


def test_what_is_read_of_the_experts():
    assert decode_features(8, 0, 0.25)[PLACE] == pytest.approx(1.0 - 0.75**8)
    # Rows that pad a batch repeat what others ask for, or are told to ask for nothing.
    assert decode_features(3, 0, 0.25)[PLACE] == pytest.approx(1.0 - 0.75**3)
    assert prefill_features(2, 3.0, 0.25)[PLACE] == pytest.approx(1.0 - 0.75**2)
    table = decode_features_of(np.array([3.0, 16.0]), np.zeros(2), 0.25)
    assert table[PLACE] == pytest.approx([1.0 - 0.75**3, 1.0 - 0.75**16])


def test_a_dense_model_has_none():
    assert decode_features(8, 0)[PLACE] == prefill_features(8, 36.0)[PLACE] == 0.0
    assert not decode_features_of(np.array([8.0]), np.zeros(1))[PLACE].any()
    assert "expert_share" not in DENSE.datasheet()
    assert EcoPred.from_datasheet(DENSE.datasheet()).snapshot().decode.expert_share == 0.0
    load = Load.decode(8, 0)
    assert LatencyFeatures().of_load(load, 1410.0)["decode.constant.experts"] == 0.0
    assert LatencyFeatures(expert_share=0.5).of_load(load, 1410.0)["decode.constant.experts"] > 0.9


def test_snapshots_keep_the_share():
    frozen = taught(MIXTURES[0]).snapshot()
    values = json.loads(json.dumps(frozen.to_dict(), allow_nan=False))
    read, load = LatencySnapshot.from_dict(values), Load.decode(24, 9000)
    clocks_mhz = np.array([700.0, 1410.0])
    assert read.decode.expert_share == 1 / 16
    assert (
        read.forecast(load, clocks_mhz).mean_s == frozen.forecast(load, clocks_mhz).mean_s
    ).all()


def test_profiles_keep_the_share(tmp_path):
    case = MIXTURES[0]
    fitted = fit_profile(
        small_batches(case), stack=STACK, max_clock_mhz=1410.0, datasheet=case.datasheet()
    )
    for profile in (fitted, taught(case).to_profile(STACK)):
        save_profile(profile, tmp_path / "p.json")
        predictor = EcoPred.from_profile(tmp_path / "p.json")
        assert predictor.snapshot().decode.expert_share == 1 / 16
        load = Load.decode(64, 64_000)
        exact_s = latency_model(case).latency_s(load, 1410.0)
        assert predictor.expected_s(load, 1410.0) == pytest.approx(exact_s, rel=0.2)


def test_a_profile_from_before_experts_were_told_apart_is_read(tmp_path):
    predictor = EcoPred.from_datasheet(DENSE.datasheet())
    for outcome in outcomes(DENSE, Phase.DECODE, 100, seed=1):
        predictor.learn(outcome)
    values = predictor.to_profile(STACK).model_dump()
    del values["decode"]["expert_share"]
    for table in ("coefficients_s", "deviations_s"):
        for row in values["decode"][table].values():
            del row[EXPERTS]
    (tmp_path / "old.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_profile(tmp_path / "old.json").decode.expert_share == 0.0
    load = Load.decode(64, 64_000)
    read_s = EcoPred.from_profile(tmp_path / "old.json").expected_s(load, 1410.0)
    assert read_s == pytest.approx(predictor.expected_s(load, 1410.0))


@pytest.mark.parametrize(
    ("field", "value"), [("expert_share", 1.5), ("expert_share", -0.1), ("expert_bytes", 1e15)]
)
def test_a_datasheet_names_what_is_out_of_range(field, value):
    datasheet = MIXTURES[0].datasheet() | {field: value}
    with pytest.raises(ConfigError, match=f"datasheet.{field} = .*Leave both out for a dense"):
        EcoPred.from_datasheet(datasheet)
    if field == "expert_share":
        with pytest.raises(ConfigError, match=r"expert_share = .*0 is that of a dense model"):
            LatencyFeatures(expert_share=value)
