"""The trace formats: which columns hold what, in which unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """How a format names its columns; names are compared by `normalise`.

    Attributes:
        name: What users call it.
        time: Seconds in a unit of each column that may hold the arrival time, most specific first.
            Dates with a time of day are understood in all of them.
        prompt: Columns that may hold the prompt tokens.
        output: Columns that may hold the output tokens.
        container: ``csv`` or ``jsonl`` where only one of them is meant, else None.
    """

    name: str
    time: Mapping[str, float]
    prompt: tuple[str, ...]
    output: tuple[str, ...]
    container: str | None = None


AZURE = TraceFormat(
    name="azure",
    time={"timestamp": 1.0},
    prompt=("contexttokens",),
    output=("generatedtokens",),
)
MOONCAKE = TraceFormat(
    name="mooncake",
    time={"timestamp": 1e-3, "timestamp_ms": 1e-3},
    prompt=("input_length",),
    output=("output_length",),
)
BURSTGPT = TraceFormat(
    name="burstgpt",
    time={"timestamp": 1.0},
    prompt=("request_tokens",),
    output=("response_tokens",),
)

_GENERIC_TIME = {
    "arrival_s": 1.0,
    "arrival_time_s": 1.0,
    "timestamp_s": 1.0,
    "time_s": 1.0,
    "arrival_ms": 1e-3,
    "arrival_time_ms": 1e-3,
    "timestamp_ms": 1e-3,
    "time_ms": 1e-3,
    "arrived_at": 1.0,
    "arrival_time": 1.0,
    "arrival": 1.0,
    "timestamp": 1.0,
    "time": 1.0,
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
    "generatedtokens",
)
GENERIC_CSV = TraceFormat(
    name="csv",
    time=_GENERIC_TIME,
    prompt=_GENERIC_PROMPT,
    output=_GENERIC_OUTPUT,
    container="csv",
)
GENERIC_JSONL = TraceFormat(
    name="jsonl",
    time=_GENERIC_TIME,
    prompt=_GENERIC_PROMPT,
    output=_GENERIC_OUTPUT,
    container="jsonl",
)

FORMATS: Mapping[str, TraceFormat] = {
    f.name: f for f in (AZURE, MOONCAKE, BURSTGPT, GENERIC_CSV, GENERIC_JSONL)
}
FORMAT_NAMES: tuple[str, ...] = (AUTO, *FORMATS)


def normalise(column: str) -> str:
    """A column name without case, and with underscores for blanks and hyphens."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def detect(columns: Collection[str], container: str) -> TraceFormat:
    """The recorded format with these normalised columns, or the generic one of the container."""
    for known in (AZURE, MOONCAKE, BURSTGPT):
        if all(
            any(column in columns for column in wanted)
            for wanted in (known.time, known.prompt, known.output)
        ):
            return known
    return GENERIC_JSONL if container == "jsonl" else GENERIC_CSV
