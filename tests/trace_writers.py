"""Writers of every trace format, with the oddities that real files have."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

START = datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)
EPOCH_S = 1_700_000_000

Row = tuple[int, int, int]
"""Arrival in milliseconds, prompt tokens, output tokens."""


@dataclass(frozen=True, kw_only=True)
class Oddities:
    """What a file looks like beside its values.

    Attributes:
        bom: It begins with a byte-order mark.
        newline: End of a line.
        quoted: Every cell of a table stands in quotes.
        gaps: Blank lines between rows.
        mixed_case: Column names are not written as documented.
        delimiter: What separates the cells of a table.
        array: JSON objects stand in one array.
        indented: JSON is written over several lines, where it is one value.
        failures: Failed requests stand between the others.
        seed: Of the order of columns.
    """

    bom: bool = False
    newline: str = "\n"
    quoted: bool = False
    gaps: bool = False
    mixed_case: bool = False
    delimiter: str = ","
    array: bool = False
    indented: bool = False
    failures: bool = False
    seed: int = 0

    def column(self, name: str) -> str:
        return name.upper().replace("_", " ") if self.mixed_case else name

    def join(self, lines: Iterable[str]) -> bytes:
        gap = self.newline * 2 if self.gaps else self.newline
        text = gap.join(lines) + self.newline
        return text.encode("utf-8-sig" if self.bom else "utf-8")


def table(columns: dict[str, list[Any]], odd: Oddities) -> bytes:
    names = list(columns)
    random.Random(odd.seed).shuffle(names)
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=odd.delimiter,
        lineterminator="\0",
        quoting=csv.QUOTE_ALL if odd.quoted else csv.QUOTE_MINIMAL,
    )
    writer.writerow([odd.column(name) for name in names])
    for cells in zip(*(columns[name] for name in names), strict=True):
        writer.writerow([_decimals(cell, odd) for cell in cells])
    return odd.join(text.getvalue().rstrip("\0").split("\0"))


def _decimals(cell: object, odd: Oddities) -> object:
    return str(cell).replace(".", ",") if isinstance(cell, float) and odd.delimiter == ";" else cell


def objects(rows: list[dict[str, Any]], odd: Oddities) -> bytes:
    if odd.array:
        return odd.join(json.dumps(rows, indent=2 if odd.indented else None).split("\n"))
    return odd.join(json.dumps(row) for row in rows)


def document(value: dict[str, Any], odd: Oddities) -> bytes:
    return odd.join(json.dumps(value, indent=2 if odd.indented else None).split("\n"))


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How one format is written.

    Attributes:
        name: Of the format.
        write: Makes the bytes of a file.
        options: What `read_trace` must be told because the columns leave it open.
    """

    name: str
    write: Callable[[list[Row], Oddities], bytes]
    options: dict[str, str] = field(default_factory=dict)


def _dates(rows: list[Row], sep: str = " ") -> list[str]:
    return [(START + timedelta(milliseconds=ms)).isoformat(sep=sep) for ms, *_ in rows]


def azure(rows: list[Row], odd: Oddities) -> bytes:
    return table(
        {
            "TIMESTAMP": _dates(rows),
            "ContextTokens": [p for _, p, _ in rows],
            "GeneratedTokens": [o for *_, o in rows],
        },
        # its names are one word each, so that nothing separates them
        Oddities(**{**odd.__dict__, "mixed_case": False}),
    )


def bailian(rows: list[Row], odd: Oddities) -> bytes:
    return objects(
        [
            {
                odd.column("chat_id"): i,
                odd.column("parent_chat_id"): -1,
                odd.column("timestamp"): ms / 1e3,
                odd.column("input_length"): p,
                odd.column("output_length"): o,
                odd.column("type"): "text",
                odd.column("turn"): 1,
                odd.column("hash_ids"): [i],
            }
            for i, (ms, p, o) in enumerate(rows)
        ],
        odd,
    )


def mooncake(rows: list[Row], odd: Oddities) -> bytes:
    return objects(
        [
            {
                odd.column("timestamp"): ms,
                odd.column("input_length"): p,
                odd.column("output_length"): o,
                odd.column("hash_ids"): [1, 2][: -(-p // 512)],
            }
            for ms, p, o in rows
        ],
        odd,
    )


def mooncake_seconds(rows: list[Row], odd: Oddities) -> bytes:
    return objects(
        [{"timestamp": ms / 1e3, "input_length": p, "output_length": o} for ms, p, o in rows], odd
    )


def mooncake_table(rows: list[Row], odd: Oddities) -> bytes:
    return table(
        {
            "timestamp_ms": [ms for ms, *_ in rows],
            "input_length": [p for _, p, _ in rows],
            "output_length": [o for *_, o in rows],
        },
        odd,
    )


def burstgpt(rows: list[Row], odd: Oddities) -> bytes:
    return table(
        {
            "Timestamp": [ms / 1e3 for ms, *_ in rows],
            "Model": ["ChatGPT" for _ in rows],
            "Request tokens": [p for _, p, _ in rows],
            "Response tokens": [o for *_, o in rows],
            "Total tokens": [p + o for _, p, o in rows],
            "Log Type": ["Conversation log" for _ in rows],
        },
        odd,
    )


def splitwise(rows: list[Row], odd: Oddities) -> bytes:
    return table(
        {
            "request_id": list(range(len(rows))),
            "request_type": [2 for _ in rows],
            "application_id": [0 for _ in rows],
            "arrival_timestamp": [ms / 1e3 for ms, *_ in rows],
            "batch_size": [1 for _ in rows],
            "prompt_size": [p for _, p, _ in rows],
            "token_size": [o for *_, o in rows],
        },
        odd,
    )


def _meta(row: Row) -> dict[str, Any]:
    ms, p, o = row
    return {
        "id": "r",
        "finish_reason": {"type": "length", "length": o},
        "prompt_tokens": p,
        "cached_tokens": 0,
        "completion_tokens": o,
        "e2e_latency": 0.25,
        "request_received_ts": EPOCH_S + ms / 1e3,
    }


def sglang_json(rows: list[Row], odd: Oddities) -> bytes:
    lines = ["[2026-11-26 13:41:20] server_args=ServerArgs(port=30000)"]
    for row in rows:
        head = {"timestamp": "2026-11-26T13:41:26.484236", "rid": "r", "obj": {"text": "{["}}
        entry = {"timestamp": head.pop("timestamp"), "event": "request.received", **head}
        lines.append(f"[2026-11-26 13:41:26] {json.dumps(entry)}")
        entry = {**entry, "event": "request.finished", "out": {"meta_info": _meta(row)}}
        lines.append(f"[2026-11-26 13:41:26] {json.dumps(entry)}")
    return odd.join(lines)


def sglang_text(rows: list[Row], odd: Oddities) -> bytes:
    lines = ["INFO:     Started server process [1]"]
    for row in rows:
        trap = """'text': "'meta_info': {'prompt_tokens': 99}", """
        lines += [
            "[2026-11-26 13:41:26] Receive: obj=GenerateReqInput(rid='r', stream=True)",
            "[2026-11-26 13:41:26] Finish: obj=GenerateReqInput(rid='r', stream=True), "
            f"out={{{trap}'meta_info': {_meta(row)}}}",
        ]
    return odd.join(lines)


def sglang_without_metrics(rows: list[Row], odd: Oddities) -> bytes:
    lines = []
    for row in rows:
        done = (START.replace(tzinfo=None) + timedelta(milliseconds=row[0] + 250)).isoformat()
        meta = {k: v for k, v in _meta(row).items() if k != "request_received_ts"}
        entry = {"timestamp": done, "event": "request.finished", "rid": "r", "obj": {}}
        lines.append(f"[{done[:19]}] {json.dumps({**entry, 'out': {'meta_info': meta}})}")
    return odd.join(lines)


def aiperf_records(rows: list[Row], odd: Oddities) -> bytes:
    written = []
    for i, (ms, p, o) in enumerate(rows):
        metadata = {
            "session_num": i,
            "request_start_ns": EPOCH_S * 10**9 + ms * 10**6,
            "benchmark_phase": "profiling",
        }
        metrics = {
            "input_sequence_length": {"value": p, "unit": "tokens"},
            "output_sequence_length": {"value": o, "unit": "tokens"},
        }
        written.append({"metadata": metadata, "metrics": metrics, "error": None})
        if odd.failures:
            failed = {"error_isl": {"value": p, "unit": "tokens"}}
            written.append({"metadata": metadata, "metrics": failed, "error": {"code": 499}})
    return objects(written, odd)


def guidellm(rows: list[Row], odd: Oddities) -> bytes:
    requests = [
        {
            "request_id": str(i),
            "request_start_time": EPOCH_S + ms / 1e3,
            "prompt_tokens": p,
            "output_tokens": o,
        }
        for i, (ms, p, o) in enumerate(rows)
    ]
    failed = [{**request, "output_tokens": None} for request in requests if odd.failures]
    groups = {"successful": requests, "incomplete": [], "errored": failed}
    return document({"metadata": {}, "benchmarks": [{"requests": groups}]}, odd)


def vllm(rows: list[Row], odd: Oddities) -> bytes:
    failed = [0 for _ in rows if odd.failures]
    return document(
        {
            "date": "20260102-030405",
            "request_throughput": 1.0,
            "total_input_tokens": 1,
            "input_lens": [p for _, p, _ in rows] + [7 for _ in failed],
            "output_lens": [o for *_, o in rows] + failed,
            "ttfts": [0.1 for _ in rows],
            "start_times": [1000 + ms / 1e3 for ms, *_ in rows]
            + [1000 + rows[0][0] / 1e3 for _ in failed],
        },
        odd,
    )


def genai_perf(rows: list[Row], odd: Oddities) -> bytes:
    requests = [
        {
            "timestamp": EPOCH_S * 10**9 + ms * 10**6,
            "request_inputs": {"payload": '{"prompt_tokens": "text of the user"}'},
            "response_timestamps": [1, 2],
            "response_outputs": [
                {"response": 'data: {"choices":[{"delta":{"content":"hi"}}]}'},
                {
                    "response": "data: "
                    + json.dumps({"usage": {"prompt_tokens": p, "completion_tokens": o}})
                },
            ],
        }
        for ms, p, o in rows
    ]
    experiment = {"experiment": {"mode": "concurrency", "value": 1}, "requests": requests}
    return document({"experiments": [experiment], "version": "1"}, odd)


def columns(rows: list[Row], odd: Oddities) -> bytes:
    return document(
        {
            odd.column("arrival_s"): [ms / 1e3 for ms, *_ in rows],
            odd.column("prompt_tokens"): [p for _, p, _ in rows],
            odd.column("output_tokens"): [o for *_, o in rows],
        },
        odd,
    )


def generic(time: str, per_ms: float, *, as_table: bool) -> Callable[[list[Row], Oddities], bytes]:
    """A generic file with times in a unit of which so many are a millisecond."""

    def write(rows: list[Row], odd: Oddities) -> bytes:
        cells = {
            "id": [f'a {odd.delimiter}"b"' for _ in rows],
            "prompt": ["word " * 40_000 if i == 0 else "w" for i, _ in enumerate(rows)],
            time: [int(ms * per_ms) if per_ms >= 1 else ms * per_ms for ms, *_ in rows],
            "prompt_tokens": [p for _, p, _ in rows],
            "completion_tokens": [o for *_, o in rows],
        }
        if as_table:
            return table(cells, odd)
        named = {odd.column(name): column for name, column in cells.items()}
        return objects(
            [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)], odd
        )

    return write


WRITERS = {
    "azure": Writer(name="azure", write=azure),
    "bailian": Writer(name="bailian", write=bailian),
    "mooncake": Writer(name="mooncake", write=mooncake),
    "mooncake, seconds": Writer(
        name="mooncake", write=mooncake_seconds, options={"time_unit": "s"}
    ),
    "mooncake, table": Writer(name="mooncake", write=mooncake_table),
    "burstgpt": Writer(name="burstgpt", write=burstgpt),
    "splitwise": Writer(name="splitwise", write=splitwise),
    "sglang, json": Writer(name="sglang", write=sglang_json),
    "sglang, text": Writer(name="sglang", write=sglang_text),
    "sglang, without metrics": Writer(name="sglang", write=sglang_without_metrics),
    "aiperf-records": Writer(name="aiperf-records", write=aiperf_records),
    "guidellm": Writer(name="guidellm", write=guidellm),
    "vllm": Writer(name="vllm", write=vllm),
    "genai-perf": Writer(name="genai-perf", write=genai_perf),
    "columns": Writer(name="jsonl", write=columns),
    **{
        f"{name}, {time}": Writer(name=name, write=generic(time, per_ms, as_table=name == "csv"))
        for name in ("csv", "jsonl")
        for time, per_ms in (
            ("arrival_s", 1e-3),
            ("arrival_ms", 1),
            ("timestamp_us", 1e3),
            ("request_start_ns", 1e6),
        )
    },
}
"""Every way to write the same requests."""
