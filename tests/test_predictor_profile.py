"""Profile files: saved, loaded, refused, doubted, and fitted offline."""

import json
import re

import numpy as np
import pytest

from voltana.errors import ConfigError, ProfileError
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.offline import fit_profile
from voltana.predictors.profile import Stack, load_profile, save_profile
from voltana.testing import samples
from voltana.values import Load, Outcome, Phase

STACK = Stack(hardware="a100", model="llama", engine="sglang", engine_version="0.5.1")
CLOCKS_MHZ = samples.clocks()


def learned():
    predictor = EcoPred()
    for outcome in samples.outcomes(800):
        predictor.learn(outcome)
    return predictor


def relative_error(predictor, phase):
    errors = [
        abs(predictor.expected_s(o.load, o.clock_mhz) / o.latency_s - 1)
        for o in samples.outcomes(200, seed=9, noise=0.0)
        if o.load.phase is phase
    ]
    return float(np.mean(errors))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "profile.json"
    save_profile(learned().to_profile(STACK), path)
    return path


def test_what_was_learned_survives_a_file(saved):
    again, known = EcoPred.from_profile(saved, expect=STACK), learned()
    known.to_profile(STACK)  # labels that it gathers still are learned now
    for load in samples.LOADS.values():
        before = known.forecast(load, CLOCKS_MHZ)
        after = again.forecast(load, CLOCKS_MHZ)
        assert after.mean_s == pytest.approx(before.mean_s)
        assert np.isfinite(after.upper_s).all()


def test_the_file_names_coefficients_and_stack(saved):
    values = json.loads(saved.read_text())
    assert values["stack"]["engine_version"] == "0.5.1"
    assert values["decode"]["coefficients_s"]["constant"]["kv_tokens"] > 0
    assert values["decode"]["errors"]["samples"] == 400
    assert load_profile(saved).decode.coefficients_s == values["decode"]["coefficients_s"]


@pytest.mark.parametrize("field", ["hardware", "model", "engine", "engine_version"])
def test_a_profile_of_another_stack_is_refused_by_name(saved, field):
    running = STACK.model_copy(update={field: "other"})
    text = (
        f"stack.{field} = {getattr(STACK, field)!r} is not allowed: must be 'other', which is "
        "running. Profile this stack, or pass mismatch='prior'"
    )
    with pytest.raises(ProfileError, match=re.escape(text)):
        EcoPred.from_profile(saved, expect=running)


def test_a_profile_of_another_stack_may_serve_as_a_doubted_prior(saved):
    running = STACK.model_copy(update={"model": "other"})
    trusted = EcoPred.from_profile(saved, expect=STACK)
    doubted = EcoPred.from_profile(saved, expect=running, mismatch="prior")
    load = Load.decode(64, 40_000)
    for_trusted, for_doubted = (p.forecast(load, CLOCKS_MHZ) for p in (trusted, doubted))
    assert for_doubted.mean_s == pytest.approx(for_trusted.mean_s)
    assert (for_doubted.upper_s > 1.3 * for_trusted.upper_s).all()


def test_a_doubted_prior_learns_the_new_stack(saved):
    running = STACK.model_copy(update={"model": "other"})
    predictor = EcoPred.from_profile(saved, expect=running, mismatch="prior")
    for o in samples.outcomes(400, seed=1):
        doubled = Outcome(
            load=o.load, clock_mhz=o.clock_mhz, latency_s=2 * o.latency_s, ended_at_s=o.ended_at_s
        )
        predictor.learn(doubled)
    for o in samples.outcomes(50, seed=2, noise=0.0):
        assert predictor.expected_s(o.load, o.clock_mhz) == pytest.approx(2 * o.latency_s, rel=0.15)


def edited(path, **changes):
    values = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, leaf = dotted.split("__")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version = '2'"),
        ({"format": "other"}, "format = 'other'"),
        ({"colour": "red"}, "colour = 'red': Extra inputs are not permitted"),
        ({"stack__tensor_parallel": 0}, "stack.tensor_parallel = '0'"),
        ({"decode__slowest_mhz": -1.0}, "decode.slowest_mhz = '-1.0'"),
        (
            {"decode__coefficients_s__constant__kv_tokens": -1.0},
            "decode.coefficients_s.constant.kv_tokens = '-1.0'",
        ),
        ({"decode__coefficients_s__extra": {}}, "coefficients_s = "),
    ],
)
def test_errors_name_the_field(saved, change, text):
    with pytest.raises(ProfileError, match=re.escape(text)):
        EcoPred.from_profile(edited(saved, **change))


def test_a_missing_or_broken_file_is_an_error_in_words(tmp_path):
    with pytest.raises(ProfileError, match=r"cannot be read: No such file or directory. Check"):
        load_profile(tmp_path / "absent.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ProfileError, match="not JSON"):
        load_profile(broken)


def with_stalls(outcomes):
    """Every twentieth label ten times too long."""
    for i, o in enumerate(outcomes):
        factor = 10.0 if i % 20 == 0 else 1.0
        yield Outcome(
            load=o.load,
            clock_mhz=o.clock_mhz,
            latency_s=factor * o.latency_s,
            ended_at_s=o.ended_at_s,
        )


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_the_offline_fit_is_robust(tmp_path, phase):
    profile = fit_profile(
        with_stalls(samples.outcomes(600, noise=0.03)), stack=STACK, max_clock_mhz=1410.0
    )
    path = tmp_path / "fitted.json"
    save_profile(profile, path)
    predictor = EcoPred.from_profile(path, expect=STACK)
    assert relative_error(predictor, phase) < 0.03
    fitted = profile.prefill if phase is Phase.PREFILL else profile.decode
    assert fitted.errors.samples == 300
    assert fitted.errors.mean_absolute_error_ms > 0


def test_the_offline_fit_leaves_out_a_phase_without_samples():
    decode = [o for o in samples.outcomes(100) if o.load.phase is Phase.DECODE]
    profile = fit_profile(decode, stack=STACK, max_clock_mhz=1410.0)
    assert profile.prefill is None
    assert profile.decode.slowest_mhz >= samples.CLOCKS_MHZ[40]


def test_the_offline_fit_needs_samples():
    with pytest.raises(ConfigError, match="samples = 2 of prefill, 3 of decode is not allowed"):
        fit_profile(_few(), stack=STACK, max_clock_mhz=1410.0)


def _few():
    outcomes = list(samples.outcomes(100))
    prefill = [o for o in outcomes if o.load.phase is Phase.PREFILL][:2]
    return prefill + [o for o in outcomes if o.load.phase is Phase.DECODE][:3]
