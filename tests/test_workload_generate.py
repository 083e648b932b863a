"""Synthetic workloads: determinism, independent streams, clear refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from voltana.errors import ConfigError, UnknownNameError
from voltana.plant.workload import ARRIVAL_NAMES, Trace, make_workload, workload_names
from voltana.plant.workload.arrivals import Diurnal, load_profile
from voltana.plant.workload.lengths import LengthDistribution, Lognormal


def assert_same(first: Trace, second: Trace) -> None:
    np.testing.assert_array_equal(first.arrival_s, second.arrival_s)
    np.testing.assert_array_equal(first.prompt_tokens, second.prompt_tokens)
    np.testing.assert_array_equal(first.output_tokens, second.output_tokens)


@pytest.mark.parametrize("name", workload_names())
@pytest.mark.parametrize("arrival", ARRIVAL_NAMES)
def test_the_same_seed_gives_the_same_trace(name: str, arrival: str) -> None:
    first = make_workload(name, 20, 30, 4, arrival=arrival)
    assert_same(first, make_workload(name, 20, 30, 4, arrival=arrival))
    other = make_workload(name, 20, 30, 5, arrival=arrival)
    assert not np.array_equal(first.prompt_tokens[:50], other.prompt_tokens[:50])


def test_rate_and_arrival_process_change_no_length() -> None:
    slow = make_workload("sharegpt", 10, 30, 1)
    fast = make_workload("sharegpt", 90, 30, 1, arrival="gamma", cv=3)
    np.testing.assert_array_equal(slow.prompt_tokens, fast.prompt_tokens[: len(slow)])
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens[: len(slow)])


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    short, long = make_workload("lmsys", 40, 10, 2), make_workload("lmsys", 40, 100, 2)
    n = len(short)
    np.testing.assert_array_equal(short.arrival_s, long.arrival_s[:n])
    np.testing.assert_array_equal(short.output_tokens, long.output_tokens[:n])


def test_a_day_is_compressed_into_the_run_unless_a_process_is_given() -> None:
    day = make_workload("lmsys", 500, 240, 0, arrival="diurnal")
    hours = np.bincount((day.arrival_s / 10).astype(int), minlength=24)
    assert np.corrcoef(hours, load_profile())[0, 1] > 0.9
    real_time = Diurnal(profile=load_profile(), period_s=86_400.0, start_s=72_000.0)
    evening = make_workload("lmsys", 500, 240, 0, arrival=real_time)
    assert len(evening) > 1.3 * 500 * 240


def test_lengths_may_be_stretched_and_clipped() -> None:
    trace = make_workload(
        "arxiv",
        50,
        400,
        0,
        prompt_mean_tokens=1000,
        output_mean_tokens=100,
        max_prompt_tokens=3000,
        max_output_tokens=1200,
    )
    assert trace.prompt_tokens.mean() == pytest.approx(1000, rel=0.03)
    assert trace.prompt_tokens.max() <= 3000
    assert trace.output_tokens.max() == 1200


def test_own_distributions_and_processes_are_accepted() -> None:
    class EverySecond:
        def sample(
            self, rate_rps: float, duration_s: float, rng: np.random.Generator
        ) -> np.ndarray:
            return np.arange(0.0, duration_s, 1 / rate_rps)

    lengths = LengthDistribution(
        prompt=Lognormal(mean_tokens=100, log_std=0.5), output=Lognormal(mean_tokens=9, log_std=1)
    )
    trace = make_workload(lengths, 2, 10, 0, arrival=EverySecond())
    np.testing.assert_allclose(trace.arrival_s, np.arange(20) / 2)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown workload 'share-gpt'\. Did you mean"):
        make_workload("share-gpt", 1, 10, 0)
    with pytest.raises(UnknownNameError, match=r"unknown arrival process 'posson'.*'poisson'"):
        make_workload("sharegpt", 1, 10, 0, arrival="posson")


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_a_seed_is_a_natural_number(seed: object) -> None:
    with pytest.raises(ConfigError, match=r"^seed = "):
        make_workload("sharegpt", 1, 10, seed)  # type: ignore[arg-type]


def test_cv_belongs_to_gamma() -> None:
    with pytest.raises(ConfigError, match=r"^cv = 2\.0 .*Set arrival to 'gamma'"):
        make_workload("sharegpt", 1, 10, 0, cv=2.0)
    bursty = make_workload("sharegpt", 50, 200, 0, arrival="gamma", cv=4.0)
    gaps_s = np.diff(bursty.arrival_s)
    assert gaps_s.std() / gaps_s.mean() > 3


def test_a_run_in_which_nothing_arrives_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least one request.*Raise the rate"):
        make_workload("sharegpt", 1e-6, 1, 0)


def test_the_documented_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "workloads.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for example in examples:
        exec(compile(example, "docs/workloads.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(examples) == 3
    assert float(printed[2]) > 60
    assert printed[3] == "[0.15 0.25] [396 512]"
