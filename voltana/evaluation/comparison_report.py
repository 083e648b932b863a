"""The table of a comparison, for terminals and for Markdown, and its JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from voltana.evaluation.fitting_table import print_fitting
from voltana.evaluation.promise_tables import (
    ACCOUNT_CAPTION,
    ACCOUNT_HEADERS,
    PROMISE_CAPTION,
    PROMISE_HEADERS,
    REQUEST_CAPTION,
    REQUEST_HEADERS,
    VIABILITY_CAPTION,
    VIABILITY_HEADERS,
    account_rows,
    promise_rows,
    request_rows,
    viability_rows,
)
from voltana.evaluation.units import spent, units
from voltana.evaluation.wording import kilojoules, ms, percent, watts
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from voltana.evaluation.compare import Comparison, PolicyRun
    from voltana.evaluation.tariff import Tariff
    from voltana.evaluation.uncertainty import Uncertain
    from voltana.plant.cluster import ClusterSpec

HEADERS = (
    "policy",
    "energy kJ",
    "saved",
    "TTFT kept",
    "ITL kept",
    "TTFT ms p50/p99",
    "ITL ms p50/p99",
    "MHz P/D",
    "clock changes",
)
"""Headings of the table; P/D: mean clock of the prefill and of the decode instances."""

RANGE_HEADERS = ("policy", "saved", "TTFT kept", "ITL kept")
"""Headings of the table of ranges."""


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `HEADERS`, one row per policy in the order asked for."""
    return [_row(run) for run in comparison.runs]


def caption(comparison: Comparison) -> str:
    """One paragraph that says what was run and what the columns count."""
    file, slo = comparison.scenario.file, comparison.scenario.cluster.slo
    cluster, trace = comparison.scenario.cluster, comparison.scenario.trace
    source = (
        f"{file.workload.name} at {file.workload.rate_rps:g} requests/s"
        if file.workload is not None
        else f"trace {file.trace.file.name if file.trace else ''}"
    )
    silent = comparison.reference not in comparison.runs
    return (
        f"{cluster.counted()} instances of {cluster.model.name} on "
        f"{cluster.hardware.name} (TP {cluster.tensor_parallel}); {source}, {len(trace)} requests, "
        f"{comparison.reference.result.simulated_s:.1f} s simulated. SLO: TTFT "
        f"{slo.ttft_s * 1e3:g} ms, ITL {slo.itl_s * 1e3:g} ms. Energy of every policy up to the "
        f"same instant; saved: against {comparison.reference.result.policy}"
        f"{' (run as the reference)' if silent else ''}; kept: share of requests; P/D: mean clock "
        f"of the prefill and the decode instances{_colocated_note(cluster)}."
        f"{_binding_note(cluster)}"
        f"{_budget_note(comparison)}"
        f"{_overrides_note(comparison)}{_choice_note(comparison)}{_refused_note(comparison)}"
        f"{_prefix_note(comparison)}"
    )


def _colocated_note(cluster: ClusterSpec) -> str:
    if not cluster.colocated:
        return ""
    how = "decode beside prompts" if cluster.engine.mixed_chunk else "prompts before decode"
    return f", and of the colocated ones, last ({how})"


def _binding_note(cluster: ClusterSpec) -> str:
    if cluster.engine.binding == "early":
        return ""
    return " Decode instances are chosen when the prefill is done (late binding)."


def refused_requests(comparison: Comparison) -> int:
    """Requests of the trace whose prompt no instance can hold, and none will ever serve."""
    scenario = comparison.scenario
    can_hold = scenario.cluster.limits.can_hold
    return sum(not can_hold(tokens) for tokens in scenario.trace.prompt_tokens.tolist())


def _refused_note(comparison: Comparison) -> str:
    refused = refused_requests(comparison)
    if not refused:
        return ""
    capacity = comparison.scenario.cluster.kv_capacity_tokens
    return (
        f" {refused} of the requests have a prompt that no instance can hold (its KV cache has "
        f"{capacity} tokens): refused, and counted as missed under every policy."
    )


def _prefix_note(comparison: Comparison) -> str:
    """Whether prompts were found in caches, for a trace that says what they share."""
    scenario = comparison.scenario
    trace, engine = scenario.trace, scenario.cluster.engine
    if not trace.shares:
        return ""
    if not engine.prefix_cache:
        return f" The trace has {trace.shares}; prefix caches are off ([engine] prefix_cache)."
    runs = ", ".join(
        f"{run.result.policy} {percent(run.result.prefix_hit_rate)}" for run in comparison.runs
    )
    kept = f"a cache in each {_keepers(scenario.cluster)} instance"
    how = (
        "as recorded (cached_tokens)"
        if trace.prefixes is None
        else f"{kept} (hash_ids of {trace.prefixes.block_tokens} tokens, "
        f"pages of {engine.page_tokens}, least recently used first out)"
    )
    return f" Prefix caches on, {how}; prompt tokens found there: {runs}."


def _keepers(cluster: ClusterSpec) -> str:
    """The roles whose instances keep prompts."""
    roles = (Role.PREFILL, Role.COLOCATED)
    return " and each ".join(role.value for role in roles if cluster.instance_names(role))


def _budget_note(comparison: Comparison) -> str:
    budget = comparison.scenario.budget
    if budget is None:
        return ""
    peaks = ", ".join(
        f"{run.result.policy} {watts(run.result.peak_power_w)}" for run in comparison.runs
    )
    most_w = max(budget.budget_w)
    said = f"{most_w:g}" if budget.least_w == most_w else f"{budget.least_w:g} to {most_w:g}"
    shares = comparison.scenario.file.power_shares
    how = "in even shares" if shares == "even" else "by marginal worth"
    return (
        f" Power budget {said} W, of the reference too, divided {how}; worst 5 s: {peaks}; seconds "
        f"above it: {', '.join(map(_seconds_above, comparison.runs))}."
    )


def _seconds_above(run: PolicyRun) -> str:
    kept = run.result.power_budget or {}
    over = kept.get("over_share", math.nan)
    by = f" (by {watts(kept['worst_excess_w'])} at most)" if over > 0 else ""
    return f"{run.result.policy} {percent(over)}{by}"


def _overrides_note(comparison: Comparison) -> str:
    file = comparison.scenario.file
    levels = "" if file.levels is None else f" Clocks of every policy: {file.levels}."
    if file.predictor is None:
        return levels
    return f"{levels} Latency model of every policy that has one: {file.predictor}."


def _choice_note(comparison: Comparison) -> str:
    notes = []
    for run in comparison.runs:
        choice = run.choice
        if choice is not None:
            kept = "" if choice.kept else ", the fastest, as none keeps what static-max keeps"
            notes.append(
                f" {run.result.policy} is {choice.policy.name}, found in {choice.runs} runs{kept}."
            )
    return "".join(notes)


def knowledge_note(comparison: Comparison) -> str:
    """One line that says which of the board's properties are no measurements of it."""
    hardware = comparison.scenario.cluster.hardware
    return hardware.knowledge.caveat(hardware.name)


def range_rows(ranges: Uncertain) -> list[tuple[str, ...]]:
    """The cells under `RANGE_HEADERS`: lowest to highest, and what the calibrated board gives."""
    return [
        (
            policy,
            *(
                f"{percent(one.low)} to {percent(one.high)} ({percent(one.nominal)})"
                for one in figures.values()
            ),
        )
        for policy, figures in ranges.ranges.items()
    ]


def range_caption(ranges: Uncertain) -> str:
    """What the ranges are taken over."""
    return (
        f"Lowest to highest over {len(ranges.plants)} boards that serve the same requests "
        f"(in parentheses: as calibrated): {', '.join(ranges.plants[1:])}."
    )


def print_table(comparison: Comparison, console: Console, ranges: Uncertain | None = None) -> None:
    """Print the table; closer on a narrow terminal, but never with a figure cut off."""
    print_fitting(HEADERS, rows(comparison), console)
    console.print(caption(comparison), style="dim", highlight=False)
    console.print(knowledge_note(comparison), style="dim", highlight=False)
    if ranges is not None:
        print_fitting(RANGE_HEADERS, range_rows(ranges), console)
        console.print(range_caption(ranges), style="dim", highlight=False)
    for headers, made, explained in _further_tables(comparison):
        if made:
            print_fitting(headers, made, console)
            console.print(explained, style="dim", highlight=False)


def _further_tables(
    comparison: Comparison,
) -> tuple[tuple[Sequence[str], list[tuple[str, ...]], str], ...]:
    """What is said beside the main table: headings, cells and caption; no cells if nothing is."""
    return (
        (PROMISE_HEADERS, promise_rows(comparison), PROMISE_CAPTION),
        (VIABILITY_HEADERS, viability_rows(comparison), VIABILITY_CAPTION),
        (ACCOUNT_HEADERS, account_rows(comparison), ACCOUNT_CAPTION),
        (REQUEST_HEADERS, request_rows(comparison), REQUEST_CAPTION),
    )


def markdown_table(comparison: Comparison) -> str:
    """The same table in Markdown, with its caption below."""
    return f"{_markdown(HEADERS, rows(comparison))}\n\n{caption(comparison)}\n"


def markdown_further(comparison: Comparison) -> str:
    """The tables beside the main one in Markdown; empty if no policy promises or counts."""
    return "\n".join(
        f"{_markdown(headers, cells)}\n\n{explained}\n"
        for headers, cells, explained in _further_tables(comparison)
        if cells
    )


def _markdown(headers: Sequence[str], cells: Sequence[tuple[str, ...]]) -> str:
    lines = [tuple(headers), tuple("---" if i == 0 else "---:" for i in range(len(headers)))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *cells))


def markdown_ranges(ranges: Uncertain | None) -> str:
    """The table of ranges in Markdown; empty if there is none."""
    if ranges is None:
        return ""
    return f"{_markdown(RANGE_HEADERS, range_rows(ranges))}\n\n{range_caption(ranges)}\n"


def markdown_report(
    comparison: Comparison, images: Sequence[Path], ranges: Uncertain | None = None
) -> str:
    """The tables and the plots on one page.

    Args:
        comparison: What was run.
        images: Plots that lie beside the report.
        ranges: What its figures range over.
    """
    figures = "\n\n".join(f"![{image.stem}]({image.name})" for image in images)
    parts = (
        markdown_table(comparison),
        knowledge_note(comparison) + "\n",
        markdown_ranges(ranges),
        markdown_further(comparison),
        figures + "\n",
    )
    return "# Policies compared\n\n" + "\n".join(part for part in parts if part)


def to_json(
    comparison: Comparison,
    ranges: Uncertain | None = None,
    tariffs: Mapping[str, Tariff] | None = None,
) -> str:
    """The comparison as JSON.

    ``scenario``, ``results``, the ``reference`` of savings, ``requests_refused`` (those that no
    instance can hold), the ``knowledge`` of the board, and ``uncertainty`` if there are ranges.
    """
    reference = comparison.reference.result
    content: dict[str, object] = {
        "scenario": comparison.scenario.file.model_dump(mode="json"),
        "results": [_result(run, comparison, tariffs or {}) for run in comparison.runs],
        "requests_refused": refused_requests(comparison),
        "reference": {"policy": reference.policy, "energy_j": reference.energy_j},
        "knowledge": comparison.scenario.cluster.hardware.knowledge.model_dump(),
    }
    if ranges is not None:
        content["uncertainty"] = ranges.to_dict()
    return json.dumps(content, indent=2, allow_nan=False)


def _result(
    run: PolicyRun, comparison: Comparison, tariffs: Mapping[str, Tariff]
) -> dict[str, object]:
    return {
        **run.result.to_dict(),
        "chosen": None if run.choice is None else run.choice.to_dict(),
        "units": units(run.record, comparison.scenario),
        "spent": {name: spent(run.record, tariff) for name, tariff in tariffs.items()},
    }


def _row(run: PolicyRun) -> tuple[str, ...]:
    result = run.result
    return (
        result.policy,
        kilojoules(result.energy_j),
        percent(result.energy_saved_vs_static_max),
        percent(result.ttft_attainment),
        percent(result.itl_attainment),
        f"{ms(result.ttft_p50_s)}/{ms(result.ttft_p99_s)}",
        f"{ms(result.itl_p50_s, 1)}/{ms(result.itl_p99_s, 1)}",
        _clocks(run),
        str(result.clock_changes),
    )


def _clocks(run: PolicyRun) -> str:
    """Of searched clocks those asked for, which is what a user has to set; else what was real."""
    if run.choice is not None:
        return f"{run.choice.prefill_mhz:.0f}/{run.choice.decode_mhz:.0f}"
    result = run.result
    clocks = (result.prefill_clock_mhz, result.decode_clock_mhz, result.colocated_clock_mhz)
    return "/".join(f"{mhz:.0f}" for mhz in clocks if not math.isnan(mhz))
