"""Length distributions: the shipped parameters against what they were fitted to."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tools.calibration.lengths import SETS, fit_quantiles, read_lengths, statistics
from voltana.errors import ConfigError, UnknownNameError
from voltana.plant.workload.lengths import (
    LengthDistribution,
    Lognormal,
    LogQuantiles,
    length_names,
    load_lengths,
    load_provenance,
)
from voltana.plant.workload.lengths.marginal import mean_tokens

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
FITTED = ("arxiv", "azure-conv", "sharegpt-8k")


def draw(name: str, count: int = 400_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return load_lengths(name).sample(count, np.random.default_rng(seed))


def stored(file: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    folder = resources.files("voltana.plant.workload").joinpath("data")
    return tomllib.loads(folder.joinpath(file).read_text("utf-8"))


@pytest.mark.parametrize("name", FITTED)
def test_fitted_sets_keep_the_stored_statistics_of_their_source(name: str) -> None:
    entry = stored("lengths_fitted.toml")[name]
    for which, tokens in zip(("prompt", "output"), draw(name), strict=True):
        assert statistics(tokens) == pytest.approx(entry[which]["measured"], rel=0.03), which


@pytest.mark.data
@pytest.mark.parametrize("lengths", SETS, ids=lambda lengths: lengths.name)
def test_fitted_sets_match_the_measurements(lengths) -> None:
    if not (DATA / lengths.file).exists():
        pytest.skip(f"needs the measurements in ../shared/data ({lengths.file})")
    measured = read_lengths(DATA, lengths)
    sampled = draw(lengths.name)
    for real, tokens in zip(measured, sampled, strict=True):
        assert statistics(tokens) == pytest.approx(statistics(real), rel=0.05)
        assert real.min() <= tokens.min()
        assert tokens.max() <= real.max()
    assert spearmanr(*sampled)[0] == pytest.approx(spearmanr(*measured)[0], abs=0.02)


@pytest.mark.parametrize("name", ["lmsys", "sharegpt"])
def test_published_averages_are_kept(name: str) -> None:
    entry = stored("lengths_moments.toml")[name]
    for which, tokens in zip(("prompt", "output"), draw(name), strict=True):
        assert tokens.mean() == pytest.approx(entry[which]["mean_tokens"], rel=0.02), which
        assert np.median(tokens) < 0.8 * tokens.mean(), "a heavy tail pulls the mean up"


def test_every_name_says_where_it_comes_from() -> None:
    assert set(length_names()) == {*FITTED, "lmsys", "sharegpt"}
    for name in length_names():
        provenance = load_provenance(name)
        assert provenance.summary
        assert provenance.source
        assert provenance.licence


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'sharegpt'.*azure-conv"):
        load_lengths("shargpt")


def test_more_draws_begin_with_fewer() -> None:
    few, many = draw("arxiv", 100), draw("arxiv", 1000)
    for short, long in zip(few, many, strict=True):
        np.testing.assert_array_equal(short, long[:100])


@pytest.mark.parametrize("rho", [-0.8, -0.2, 0.0, 0.6, 0.95])
def test_the_copula_has_the_rank_correlation(rho: float) -> None:
    marginal = Lognormal(mean_tokens=5000, log_std=0.8)
    joint = LengthDistribution(prompt=marginal, output=marginal, rank_correlation=rho)
    assert spearmanr(*joint.sample(50_000, np.random.default_rng(1)))[0] == pytest.approx(
        rho, abs=0.02
    )


@pytest.mark.parametrize("name", ["arxiv", "azure-conv", "lmsys", "sharegpt", "sharegpt-8k"])
@pytest.mark.parametrize("mean", [20.0, 5000.0])
def test_means_can_be_stretched(name: str, mean: float) -> None:
    lengths = load_lengths(name).with_means(prompt_mean_tokens=mean, output_mean_tokens=2 * mean)
    assert mean_tokens(lengths.prompt) == pytest.approx(mean, rel=0.02)
    assert mean_tokens(lengths.output) == pytest.approx(2 * mean, rel=0.02)


def test_stretching_keeps_the_shape() -> None:
    lengths = load_lengths("azure-conv")
    longer = lengths.with_means(prompt_mean_tokens=10 * mean_tokens(lengths.prompt))
    scores = np.linspace(-3, 3, 7)
    ratio = longer.prompt.tokens(scores) / lengths.prompt.tokens(scores)
    np.testing.assert_allclose(ratio, 10, rtol=1e-3)
    assert longer.output == lengths.output


@pytest.mark.parametrize("mean", [0.0, 1.0, -5.0, 1e9, float("nan")])
def test_an_impossible_mean_is_refused(mean: float) -> None:
    with pytest.raises(ConfigError, match=r"^prompt_mean_tokens = .* from 2 to 200000 tokens"):
        load_lengths("lmsys").with_means(prompt_mean_tokens=mean)


@given(
    mean=st.floats(5, 5000),
    log_std=st.floats(0.05, 3),
    head_room=st.floats(1.5, 100),
)
@settings(max_examples=60, deadline=None)
def test_lognormal_has_its_mean_after_clipping(
    mean: float, log_std: float, head_room: float
) -> None:
    marginal = Lognormal(mean_tokens=mean, log_std=log_std, max_tokens=mean * head_room)
    scores = np.linspace(-8, 8, 20_001)
    weights = np.exp(-(scores**2) / 2)
    tokens = marginal.tokens(scores)
    assert np.average(tokens, weights=weights) == pytest.approx(mean, rel=2e-3)
    assert tokens.min() >= 1
    assert tokens.max() <= mean * head_room
    assert np.all(np.diff(tokens) >= 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mean_tokens": 1.0, "log_std": 1.0},
        {"mean_tokens": 100.0, "log_std": 1.0, "max_tokens": 100.0},
        {"mean_tokens": 100.0, "log_std": 0.0},
        {"mean_tokens": 100.0, "log_std": 6.0},
        {"mean_tokens": 100.0, "log_std": 1.0, "min_tokens": 0.0},
        {"mean_tokens": float("nan"), "log_std": 1.0},
        {"mean_tokens": 100.0, "log_std": 1.0, "max_tokens": 1e9},
    ],
)
def test_lognormal_refuses_impossible_parameters(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        Lognormal(**arguments)


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 2)), min_size=2, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_log_quantiles_ascend_and_pass_through_their_knots(
    steps: list[tuple[float, float]],
) -> None:
    from scipy.special import ndtri

    gaps, logs = np.array(steps).T
    probability = np.cumsum(gaps) / (gaps.sum() + 0.01)
    tokens_at = np.minimum(np.exp(np.cumsum(logs)), 1e6)
    marginal = LogQuantiles(
        probability=tuple(map(float, probability)), tokens_at=tuple(map(float, tokens_at))
    )
    np.testing.assert_allclose(marginal.tokens(ndtri(probability)), tokens_at, rtol=1e-9)
    tokens = marginal.tokens(np.linspace(-9, 9, 500))
    assert np.all(np.diff(tokens) >= -1e-9 * tokens[1:])
    assert tokens[0] == pytest.approx(tokens_at[0])
    assert tokens[-1] == pytest.approx(tokens_at[-1])


@pytest.mark.parametrize(
    ("probability", "tokens_at"),
    [
        ((0.5,), (10.0,)),
        ((0.0, 0.5), (1.0, 2.0)),
        ((0.5, 1.0), (1.0, 2.0)),
        ((0.5, 0.4), (1.0, 2.0)),
        ((0.4, 0.5), (2.0, 1.0)),
        ((0.4, 0.5), (0.5, 1.0)),
        ((0.4, 0.5), (1.0, 2.0, 3.0)),
    ],
)
def test_log_quantiles_refuse_impossible_knots(
    probability: tuple[float, ...], tokens_at: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        LogQuantiles(probability=probability, tokens_at=tokens_at)


@pytest.mark.parametrize("rho", [-1.0, 1.0, float("nan")])
def test_an_impossible_correlation_is_refused(rho: float) -> None:
    marginal = Lognormal(mean_tokens=50, log_std=1)
    with pytest.raises(ConfigError, match=r"^rank_correlation"):
        LengthDistribution(prompt=marginal, output=marginal, rank_correlation=rho)


def test_the_fit_recovers_a_distribution_that_it_has_not_seen() -> None:
    """Two humps and a lump of equal values, as recorded services have them."""
    rng = np.random.default_rng(5)
    tokens = np.concatenate(
        [rng.lognormal(4, 0.5, 6000), rng.lognormal(7, 0.2, 3000), np.full(1000, 2000.0)]
    ).round()
    from scipy.special import ndtri

    fit = fit_quantiles(tokens.astype(int))
    sample = np.rint(fit.tokens(ndtri((np.arange(100_000) + 0.5) / 100_000)))
    assert statistics(sample) == pytest.approx(statistics(tokens), rel=0.03)
