"""Results of benchmark tools that are one JSON document, to flat rows, one a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from voltana.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from voltana.plant.workload.replay.records import Row

_PROMPT_TOKENS = re.compile(r'\\?"prompt_tokens\\?"\s*:\s*(\d{1,12})')
_COMPLETION_TOKENS = re.compile(r'\\?"completion_tokens\\?"\s*:\s*(\d{1,12})')


def guidellm_requests(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """The requests of every benchmark in GuideLLM's report; those that failed have no output.

    Raises:
        TraceError: If the report holds no requests.
    """
    number = 0
    for _, report in rows:
        for benchmark in _objects(report.get("benchmarks")):
            requests = benchmark.get("requests")
            groups = requests if isinstance(requests, dict) else {"successful": requests}
            for status, group in groups.items():
                for request in _objects(group):
                    number += 1
                    yield number, _guidellm_row(request, failed=status != "successful")
    if number == 0:
        raise TraceError(
            f"{path}: is a report of GuideLLM without requests. Name the one written as "
            "benchmarks.json, with all its requests."
        )


def genai_perf_requests(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """The requests of every experiment in genai-perf's profile export.

    It holds texts, which only the model's tokenizer can count, and times. Token counts are there
    where the server was asked for its ``usage``, which comes with the last response.

    Raises:
        TraceError: If a request says no usage.
    """
    number = 0
    for _, export in rows:
        for experiment in _objects(export.get("experiments")):
            for request in _objects(experiment.get("requests")):
                number += 1
                prompt, output = _usage(request)
                if prompt is None:
                    raise TraceError(
                        f"{path}, request {number}: genai-perf recorded texts and no token counts. "
                        "Ask the server for its usage (stream_options include_usage), or take "
                        "profile_export.jsonl of AIPerf, its successor."
                    )
                yield (
                    number,
                    {
                        "timestamp": request.get("timestamp"),
                        "usage.prompt_tokens": prompt,
                        "usage.completion_tokens": output,
                    },
                )
    if number == 0:
        raise TraceError(f"{path}: is an export of genai-perf without requests. Name another one.")


def _guidellm_row(request: dict[str, Any], *, failed: bool) -> dict[str, Any]:
    start_s = request.get("request_start_time", request.get("start_time"))
    prompt, output = request.get("prompt_tokens"), request.get("output_tokens")
    return {
        "request_start_time": start_s,
        "prompt_tokens": 0 if failed and prompt is None else prompt,
        "output_tokens": 0 if failed else output,
    }


def _usage(request: dict[str, Any]) -> tuple[int | None, int | None]:
    for response in reversed(list(_objects(request.get("response_outputs")))):
        text = str(response.get("response", ""))
        prompt, output = _PROMPT_TOKENS.search(text), _COMPLETION_TOKENS.search(text)
        if prompt and output:
            return int(prompt[1]), int(output[1])
    return None, None


def _objects(values: object) -> Iterator[dict[str, Any]]:
    """The objects of a list; nothing where something else stands in its place."""
    if isinstance(values, list):
        yield from (value for value in values if isinstance(value, dict))
