"""Fit the shipped length distributions and the profile of a day to the measured sets.

Each marginal becomes a quantile function with `KNOTS` knots (see `LogQuantiles`): the extremes,
the median, p90 and p99 first, then, one at a time, the quantile that the fit so far misses most.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr

from voltana.plant import workload
from voltana.plant.workload.lengths.log_quantiles import LogQuantiles
from voltana.plant.workload.lengths.marginal import round_tokens

KNOTS = 24
"""More knots would follow the lumps of single values; fewer leave the mean of a tail off by 1 %."""

OUT = Path(workload.__file__).parent / "data"
HEADER = "# Written by tools/calibration/lengths.py; run `make calibrate` rather than edit.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSet:
    """A measured set of prompt and output lengths."""

    name: str
    file: str
    prompt_column: str
    output_column: str
    summary: str
    source: str
    licence: str


SETS = (
    LengthSet(
        name="azure-conv",
        file="azure-llm-2023/AzureLLMInferenceTrace_conv.csv.gz",
        prompt_column="ContextTokens",
        output_column="GeneratedTokens",
        summary="Azure 2023, conversation service: about 1155 prompt and 211 output tokens",
        source="Azure LLM inference trace 2023 (conv); Patel et al., Splitwise, ISCA 2024",
        licence="CC-BY-4.0",
    ),
    LengthSet(
        name="sharegpt-8k",
        file="sharegpt-lengths/sharegpt_8k_filtered_stats_llama2_tokenizer.csv.gz",
        prompt_column="num_prefill_tokens",
        output_column="num_decode_tokens",
        summary="ShareGPT, whole conversations cut at 8k: about 2340 prompt and 439 output tokens",
        source="microsoft/sarathi-serve, sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        licence="Apache-2.0",
    ),
    LengthSet(
        name="arxiv",
        file="arxiv-lengths/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz",
        prompt_column="num_prefill_tokens",
        output_column="num_decode_tokens",
        summary="arXiv summarisation: about 2588 prompt and 291 output tokens",
        source="microsoft/vidur, arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        licence="MIT",
    ),
)


def main(data_dir: Path) -> None:
    """Fit all sets under `data_dir` and write the data files of the package."""
    sections = [_section(lengths, *read_lengths(data_dir, lengths)) for lengths in SETS]
    (OUT / "lengths_fitted.toml").write_text("\n".join([HEADER, *sections]), "utf-8")
    (OUT / "diurnal.toml").write_text(_diurnal(data_dir), "utf-8")


def read_lengths(data_dir: Path, lengths: LengthSet) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of a measured set."""
    with gzip.open(data_dir / lengths.file, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    prompt = np.array([int(row[lengths.prompt_column]) for row in rows])
    return prompt, np.array([int(row[lengths.output_column]) for row in rows])


def fit_quantiles(tokens: np.ndarray, knots: int = KNOTS) -> LogQuantiles:
    """Fit the quantile function of `tokens`; the median, p90 and p99 are met exactly."""
    edge = 0.5 / len(tokens)
    grid = np.r_[np.arange(0.002, 0.01, 0.002), np.arange(0.01, 1, 0.01), 0.985]
    grid = np.r_[grid, 0.992, 0.994, 0.996, 0.998]
    chosen = [edge, 0.5, 0.9, 0.99, 1 - edge]
    while True:
        chosen.sort()
        # The edges are worth the extremes themselves, so that nothing longer is ever drawn.
        at = np.r_[tokens.min(), np.quantile(tokens, chosen[1:-1]), tokens.max()]
        fit = LogQuantiles(
            probability=tuple(round(float(p), 7) for p in chosen),
            tokens_at=tuple(round(max(float(q), 1.0), 2) for q in at),
        )
        if len(chosen) == knots:
            return fit
        miss = np.abs(np.log(fit.tokens(ndtri(grid)) / np.quantile(tokens, grid)))
        chosen.append(float(grid[miss.argmax()]))


def statistics(tokens: np.ndarray) -> dict[str, float]:
    """The figures by which a fit is judged."""
    median, p90, p99 = np.quantile(tokens, [0.5, 0.9, 0.99])
    return {
        "mean": float(tokens.mean()),
        "median": float(median),
        "p90": float(p90),
        "p99": float(p99),
    }


def kolmogorov(sample: np.ndarray, tokens: np.ndarray) -> float:
    """Largest distance between two empirical distribution functions."""
    at = np.unique(tokens)
    return float(
        np.abs(
            np.searchsorted(np.sort(sample), at, "right") / len(sample)
            - np.searchsorted(np.sort(tokens), at, "right") / len(tokens)
        ).max()
    )


def _section(lengths: LengthSet, prompt: np.ndarray, output: np.ndarray) -> str:
    head = [
        f"[{lengths.name}]",
        f'summary = "{lengths.summary}"',
        f'source = "{lengths.source}"',
        f'licence = "{lengths.licence}"',
        f"measured_requests = {len(prompt)}",
        f"rank_correlation = {float(spearmanr(prompt, output)[0]):.4f}",
    ]
    parts = [_marginal(lengths.name, "prompt", prompt), _marginal(lengths.name, "output", output)]
    return "\n".join([*head, *parts]) + "\n"


def _marginal(name: str, which: str, tokens: np.ndarray) -> str:
    fit = fit_quantiles(tokens)
    sample = round_tokens(fit.tokens(ndtri((np.arange(200_000) + 0.5) / 200_000)))
    measured, fitted = statistics(tokens), statistics(sample)
    residual = {key: fitted[key] / measured[key] - 1 for key in measured}
    return "\n".join(
        [
            f"\n[{name}.{which}]",
            'family = "log-quantiles"',
            f"probability = [{', '.join(f'{p:g}' for p in fit.probability)}]",
            f"tokens_at = [{', '.join(f'{q:g}' for q in fit.tokens_at)}]",
            f"measured = {{ {', '.join(f'{k} = {v:.2f}' for k, v in measured.items())} }}",
            f"relative_residual = {{ {', '.join(f'{k} = {v:.4f}' for k, v in residual.items())} }}",
            f"kolmogorov_distance = {kolmogorov(sample, tokens):.4f}",
        ]
    )


def _diurnal(data_dir: Path) -> str:
    rate_rps: defaultdict[float, float] = defaultdict(float)
    path = data_dir / "servegen-m-small" / "client_rates.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rate_rps[float(row["timestamp_s"])] += float(row["rate_rps"])
    time_s, rate = np.array(list(rate_rps)), np.array(list(rate_rps.values()))
    hour = (time_s % 86_400 // 3_600).astype(int)
    relative = np.array([rate[hour == h].mean() for h in range(24)]) / rate.mean()
    within = [rate[hour == h].std() / rate[hour == h].mean() for h in range(24)]
    return (
        f"{HEADER}\n"
        'source = "ServeGen client pool, language / m-small (arXiv 2505.09999), all clients, '
        'mean over 14 days"\n'
        'licence = "Apache-2.0"\n'
        f"cv_within_an_hour_of_day = {np.mean(within):.3f}\n"
        f"relative_rate = [{', '.join(f'{r:.3f}' for r in relative)}]\n"
    )
