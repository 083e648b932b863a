"""The trace formats: which columns hold what, in which unit, and by what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from voltana.plant.workload.replay.records import aiperf_records, aiperf_turns
from voltana.plant.workload.replay.reports import genai_perf_requests, guidellm_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from voltana.plant.workload.replay.records import Row

AUTO = "auto"
CSV, JSON, LOG = "csv", "json", "log"
"""What a file is written in: a table, JSON objects, or the log of an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """How a format names its columns; names are compared by `normalise`.

    Attributes:
        name: What users call it.
        time: Seconds in a unit of each column that may hold the arrival time, most specific first.
            Dates with a time of day are understood in all of them.
        prompt: Columns that may hold the prompt tokens.
        output: Columns that may hold the output tokens.
        containers: What it may be written in.
        told_by: Columns of which any set tells the format, beside its own columns being there.
        unsure: Columns of `time` whose unit files get wrong, so that the times themselves decide.
        unnest: Turns the objects of a file into flat rows with the columns above.
        blocks: Columns that may hold the numbers of the prompt's blocks; none need be there.
        block_tokens: Tokens of such a block.
        cached: Columns that may hold the prompt tokens found in a cache; none need be there.
        hint: What to do if a column is missing.
    """

    name: str
    time: Mapping[str, float]
    prompt: tuple[str, ...]
    output: tuple[str, ...]
    containers: tuple[str, ...] = (CSV, JSON)
    told_by: tuple[frozenset[str], ...] = ()
    unsure: frozenset[str] = frozenset()
    unnest: Callable[[Iterable[Row], Path], Iterator[Row]] | None = None
    blocks: tuple[str, ...] = ("hash_ids",)
    block_tokens: int = 512
    cached: tuple[str, ...] = ("cached_tokens", "cached_prompt_tokens")
    hint: str = "Give another format, or rename the columns in its first line."

    def tells(self, columns: Collection[str]) -> bool:
        """Whether a first row with these normalised columns is one of this format."""
        if self.told_by:
            return any(mark.issubset(columns) for mark in self.told_by)
        wanted = (self.time, self.prompt, self.output)
        return all(any(name in columns for name in names) for names in wanted)


AZURE = TraceFormat(
    name="azure",
    time={"timestamp": 1.0},
    prompt=("contexttokens",),
    output=("generatedtokens",),
)
BAILIAN = TraceFormat(
    name="bailian",
    time={"timestamp": 1.0},
    prompt=("input_length",),
    output=("output_length",),
    told_by=(frozenset({"chat_id", "parent_chat_id", "input_length"}),),
    block_tokens=16,
)
AIPERF = TraceFormat(
    name="aiperf",
    time={"timestamp": 1e-3},
    prompt=("input_length",),
    output=("output_length",),
    containers=(JSON,),
    told_by=(
        frozenset({"session_id", "input_length", "output_length"}),
        frozenset({"delay", "input_length", "output_length"}),
    ),
    unnest=aiperf_turns,
)
AIPERF_RECORDS = TraceFormat(
    name="aiperf-records",
    time={"metadata.request_start_ns": 1e-9},
    prompt=("metrics.input_sequence_length",),
    output=("metrics.output_sequence_length",),
    containers=(JSON,),
    told_by=(frozenset({"metadata", "metrics"}),),
    unnest=aiperf_records,
    hint="Name AIPerf's profile_export.jsonl, which has one record a request.",
)
MOONCAKE = TraceFormat(
    name="mooncake",
    time={"timestamp": 1e-3, "timestamp_ms": 1e-3},
    prompt=("input_length",),
    output=("output_length",),
    unsure=frozenset({"timestamp"}),
)
BURSTGPT = TraceFormat(
    name="burstgpt",
    time={"timestamp": 1.0},
    prompt=("request_tokens",),
    output=("response_tokens",),
)
SPLITWISE = TraceFormat(
    name="splitwise",
    time={"arrival_timestamp": 1.0},
    prompt=("prompt_size",),
    output=("token_size",),
)
SGLANG = TraceFormat(
    name="sglang",
    time={"received": 1.0},
    prompt=("meta_info.prompt_tokens",),
    output=("meta_info.completion_tokens",),
    containers=(LOG,),
    cached=("meta_info.cached_tokens",),
)
GUIDELLM = TraceFormat(
    name="guidellm",
    time={"request_start_time": 1.0},
    prompt=("prompt_tokens",),
    output=("output_tokens",),
    containers=(JSON,),
    told_by=(frozenset({"benchmarks"}),),
    unnest=guidellm_requests,
)
VLLM = TraceFormat(
    name="vllm",
    time={"start_times": 1.0},
    prompt=("input_lens",),
    output=("output_lens",),
    containers=(JSON,),
    told_by=(
        frozenset({"input_lens", "output_lens"}),
        frozenset({"total_input_tokens", "request_throughput"}),
    ),
    hint="Run 'vllm bench serve' with --save-result --save-detailed, of a version that writes "
    "start_times; SGLang's bench_serving writes none: take the engine's request log there.",
)
GENAI_PERF = TraceFormat(
    name="genai-perf",
    time={"timestamp": 1e-9},
    prompt=("usage.prompt_tokens",),
    output=("usage.completion_tokens",),
    containers=(JSON,),
    told_by=(frozenset({"experiments"}),),
    unnest=genai_perf_requests,
)

_BARE_TIME = ("arrived_at", "arrival_time", "arrival", "timestamp", "time")
"""Columns that do not name their unit: seconds, unless the times say otherwise."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_GENERIC_TIME = {
    **{
        f"{stem}_{unit}": seconds
        for unit, seconds in _UNITS.items()
        for stem in ("arrival", "arrival_time", "timestamp", "time", "start_time", "request_start")
    },
    **dict.fromkeys(_BARE_TIME, 1.0),
}
_GENERIC_PROMPT = (
    "prompt_tokens",
    "input_tokens",
    "context_tokens",
    "request_tokens",
    "num_prefill_tokens",
    "prompt_length",
    "input_length",
    "prompt_len",
    "input_len",
    "prompt_size",
    "contexttokens",
)
_GENERIC_OUTPUT = (
    "output_tokens",
    "completion_tokens",
    "generated_tokens",
    "response_tokens",
    "num_decode_tokens",
    "output_length",
    "output_len",
    "token_size",
    "generatedtokens",
)
GENERIC_CSV = TraceFormat(
    name="csv",
    time=_GENERIC_TIME,
    prompt=_GENERIC_PROMPT,
    output=_GENERIC_OUTPUT,
    containers=(CSV,),
    unsure=frozenset(_BARE_TIME),
)
GENERIC_JSON = TraceFormat(
    name="jsonl",
    time=_GENERIC_TIME,
    prompt=_GENERIC_PROMPT,
    output=_GENERIC_OUTPUT,
    containers=(JSON,),
    unsure=frozenset(_BARE_TIME),
)

_TOLD = (
    AZURE,
    BAILIAN,
    AIPERF_RECORDS,
    AIPERF,
    MOONCAKE,
    BURSTGPT,
    SPLITWISE,
    GUIDELLM,
    VLLM,
    GENAI_PERF,
)
"""Formats that are told by their columns, the more specific one first."""

FORMATS: Mapping[str, TraceFormat] = {
    f.name: f for f in (*_TOLD, SGLANG, GENERIC_CSV, GENERIC_JSON)
}
FORMAT_NAMES: tuple[str, ...] = (AUTO, *FORMATS)


@lru_cache(maxsize=4096)
def normalise(column: str) -> str:
    """A column name without case, and with underscores for blanks and hyphens."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def detect(columns: Collection[str], container: str) -> TraceFormat:
    """The recorded format with these normalised columns, or the generic one of the container."""
    for known in _TOLD:
        if container in known.containers and known.tells(columns):
            return known
    return GENERIC_JSON if container == JSON else GENERIC_CSV


def known_columns() -> frozenset[str]:
    """Every column name of the formats that may be a table."""
    return frozenset(
        name
        for known in FORMATS.values()
        if CSV in known.containers
        for names in (known.time, known.prompt, known.output, known.blocks, known.cached)
        for name in names
    )
