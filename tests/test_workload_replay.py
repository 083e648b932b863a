"""Trace replay: every format round-trips, every broken file gets a TraceError that names it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError, TraceError, UnknownNameError
from voltana.plant.workload import FORMAT_NAMES, Trace, read_trace
from voltana.plant.workload.replay import table as table_module
from voltana.plant.workload.transform import (
    clip_lengths,
    mean_rate_rps,
    scale_rate,
    window,
)

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
START = datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)

Rows = Sequence[tuple[float, int, int]]
"""Arrival in milliseconds, prompt tokens, output tokens."""


def as_csv(header: str, rows: list[list[object]], newline: str = "\r\n") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=newline)
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return text.getvalue()


def azure_2023(rows: Rows) -> str:
    stamps = [
        (START + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%S.%f") for ms, *_ in rows
    ]
    cells = [[f"{at}0", p, o] for at, (_, p, o) in zip(stamps, rows, strict=True)]
    return as_csv("TIMESTAMP,ContextTokens,GeneratedTokens", cells)


def azure_2024(rows: Rows) -> str:
    cells = [[(START + timedelta(milliseconds=ms)).isoformat(sep=" "), p, o] for ms, p, o in rows]
    return as_csv("TIMESTAMP,ContextTokens,GeneratedTokens", cells, "\n")


def mooncake_jsonl(rows: Rows) -> str:
    return "".join(
        json.dumps(
            {
                "timestamp": ms,
                "input_length": p,
                "output_length": o,
                "hash_ids": [1, 2][: -(-p // 512)],
            }
        )
        + "\n"
        for ms, p, o in rows
    )


def mooncake_csv(rows: Rows) -> str:
    return as_csv("timestamp_ms,input_length,output_length", [list(row) for row in rows])


def burstgpt(rows: Rows) -> str:
    return as_csv(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        [[ms / 1e3, "ChatGPT", p, o, p + o, "Conversation log"] for ms, p, o in rows],
    )


def generic_csv(rows: Rows) -> str:
    return as_csv(
        "id,arrival_s,prompt_tokens,output_tokens", [["a", ms / 1e3, p, o] for ms, p, o in rows]
    )


def generic_jsonl(rows: Rows) -> str:
    return "".join(
        json.dumps({"completion_tokens": o, "Arrival-ms": ms, "input tokens": p}) + "\n\n"
        for ms, p, o in rows
    )


WRITERS = {
    azure_2023: "azure",
    azure_2024: "azure",
    mooncake_jsonl: "mooncake",
    mooncake_csv: "mooncake",
    burstgpt: "burstgpt",
    generic_csv: "csv",
    generic_jsonl: "jsonl",
}

rows_strategy = st.lists(
    st.tuples(st.integers(0, 10**7), st.integers(1, 200_000), st.integers(1, 50_000)),
    min_size=1,
    max_size=40,
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def write(path: Path, text: str, *, gzipped: bool = False, bom: bool = False) -> Path:
    data = text.encode("utf-8-sig" if bom else "utf-8")
    path.write_bytes(gzip.compress(data, 1) if gzipped else data)
    return path


def trace_or_error(file: Path, trace_format: str) -> Trace | TraceError:
    try:
        return read_trace(file, trace_format)
    except TraceError as error:
        return error


reuse_folder = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
@given(rows=rows_strategy, gzipped=st.booleans(), bom=st.booleans(), auto=st.booleans())
@reuse_folder
def test_every_format_round_trips(
    tmp_path: Path, writer, *, rows: Rows, gzipped: bool, bom: bool, auto: bool
) -> None:
    file = write(tmp_path / "trace", writer(rows), gzipped=gzipped, bom=bom)
    trace = read_trace(file, "auto" if auto else WRITERS[writer])
    ms, prompts, outputs = np.array(rows).T
    np.testing.assert_allclose(trace.arrival_s, (ms - ms[0]) / 1e3, atol=1e-6)
    np.testing.assert_array_equal(trace.prompt_tokens, prompts)
    np.testing.assert_array_equal(trace.output_tokens, outputs)


@given(rows=rows_strategy)
@reuse_folder
def test_chunks_leave_no_seam(tmp_path: Path, rows: Rows) -> None:
    file = write(tmp_path / "trace.csv", generic_csv(rows))
    whole = read_trace(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "CHUNK_ROWS", 3)
        pieces = read_trace(file)
    np.testing.assert_array_equal(whole.arrival_s, pieces.arrival_s)
    np.testing.assert_array_equal(whole.output_tokens, pieces.output_tokens)


def test_unsorted_requests_are_sorted_with_one_warning(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", generic_csv([(5000, 5, 50), (1000, 1, 10), (3000, 3, 30)]))
    with structlog.testing.capture_logs() as logs:
        trace = read_trace(file)
    np.testing.assert_allclose(trace.arrival_s, [0, 2, 4])
    assert trace.prompt_tokens.tolist() == [1, 3, 5]
    assert trace.output_tokens.tolist() == [10, 30, 50]
    assert [(log["log_level"], log["steps_back"]) for log in logs] == [("warning", 1)]
    assert "sorted" in logs[0]["event"]
    assert logs[0]["file"] == str(file)


def test_failed_requests_are_dropped_with_one_warning(tmp_path: Path) -> None:
    file = write(
        tmp_path / "b.csv", burstgpt([(0, 9, 0), (1000, 7, 70), (2000, 0, 5), (3000, 8, 80)])
    )
    with structlog.testing.capture_logs() as logs:
        trace = read_trace(file)
    assert trace.prompt_tokens.tolist() == [7, 8]
    np.testing.assert_allclose(trace.arrival_s, [0, 2])
    assert [(log["log_level"], log["requests"]) for log in logs] == [("warning", 2)]


def test_a_clean_file_warns_of_nothing(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        read_trace(write(tmp_path / "t.csv", generic_csv([(0, 1, 1), (0, 2, 2)])))
    assert logs == []


def test_dates_with_different_zones_share_one_axis(tmp_path: Path) -> None:
    text = (
        "time,input_tokens,output_tokens\n2024-05-10T02:00:00+02:00,1,1\n"
        "2024-05-10T00:00:01Z,2,2\n2024-05-10 00:00:02.5,3,3\n"
    )
    np.testing.assert_allclose(read_trace(write(tmp_path / "t", text)).arrival_s, [0, 1, 2.5])


class TestWindowRateAndClipping:
    rows = tuple((ms, ms // 100 + 1, ms // 50 + 1) for ms in range(0, 100_000, 500))

    def test_they_apply_in_order(self, tmp_path: Path) -> None:
        file = write(tmp_path / "t.csv", generic_csv(self.rows))
        trace = read_trace(
            file, window_s=(10.0, 20.0), rate_scale=4, max_prompt_tokens=150, max_output_tokens=300
        )
        np.testing.assert_allclose(trace.arrival_s, np.arange(0, 2.5, 0.125))
        assert trace.prompt_tokens.tolist() == [min(101 + 5 * i, 150) for i in range(20)]
        assert trace.output_tokens.tolist() == [min(201 + 10 * i, 300) for i in range(20)]

    def test_the_target_rate_is_reached(self, tmp_path: Path) -> None:
        trace = read_trace(write(tmp_path / "t.csv", generic_csv(self.rows)), target_rate_rps=60)
        assert mean_rate_rps(trace) == pytest.approx(60)
        assert len(trace) == len(self.rows)

    def test_a_window_outside_names_the_span(self, tmp_path: Path) -> None:
        file = write(tmp_path / "t.csv", generic_csv(self.rows))
        with pytest.raises(TraceError, match=r"t\.csv: .*200 s to 300 s.*from 0 s to 99\.5 s"):
            read_trace(file, window_s=(200, 300))

    def test_one_instant_has_no_rate(self, tmp_path: Path) -> None:
        file = write(tmp_path / "t.csv", generic_csv([(5, 1, 1), (5, 1, 1)]))
        with pytest.raises(TraceError, match=r"t\.csv: .*same instant.*Leave the target rate out"):
            read_trace(file, target_rate_rps=3)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"window_s": (5.0, 5.0)}, r"^window = \(5\.0, 5\.0\)"),
            ({"window_s": (-1.0, 5.0)}, "^window = "),
            ({"window_s": (float("nan"), 5.0)}, "^window = "),
            ({"rate_scale": 0.0}, r"^rate_scale = 0\.0"),
            ({"rate_scale": float("inf")}, "^rate_scale = inf"),
            ({"target_rate_rps": -3.0}, "^target_rate_rps = "),
            ({"target_rate_rps": float("nan")}, "^target_rate_rps = "),
            ({"target_rate_rps": 3.0, "rate_scale": 2.0}, "Give one of the two"),
            ({"max_prompt_tokens": 0}, "^max_prompt_tokens = 0"),
            ({"max_output_tokens": -4}, "^max_output_tokens = -4"),
        ],
    )
    def test_impossible_arguments_are_refused(
        self, tmp_path: Path, arguments: dict[str, object], text: str
    ) -> None:
        file = write(tmp_path / "t.csv", generic_csv(self.rows))
        with pytest.raises(ConfigError, match=text):
            read_trace(file, **arguments)  # type: ignore[arg-type]


traces = rows_strategy.map(
    lambda rows: Trace(
        arrival_s=np.array([row[0] / 1e3 for row in rows]),
        prompt_tokens=np.array([row[1] for row in rows]),
        output_tokens=np.array([row[2] for row in rows]),
    )
)


@given(trace=traces, cut=st.floats(0.1, 10**4))
def test_two_windows_hold_every_request_once(trace: Trace, cut: float) -> None:
    parts = []
    for start_s, end_s in ((0.0, cut), (cut, float("inf"))):
        try:
            parts.append(window(trace, start_s, end_s).arrival_s + start_s)
        except TraceError:
            continue
    np.testing.assert_allclose(np.concatenate(parts), trace.arrival_s)


@given(trace=traces, factor=st.floats(0.01, 100))
def test_scaling_the_rate_is_undone_by_its_inverse(trace: Trace, factor: float) -> None:
    back = scale_rate(scale_rate(trace, factor), 1 / factor)
    np.testing.assert_allclose(back.arrival_s, trace.arrival_s)
    np.testing.assert_array_equal(back.prompt_tokens, trace.prompt_tokens)


@given(trace=traces, prompt=st.integers(1, 10**6), output=st.integers(1, 10**6))
def test_clipping_only_shortens_what_is_too_long(trace: Trace, prompt: int, output: int) -> None:
    clipped = clip_lengths(trace, max_prompt_tokens=prompt, max_output_tokens=output)
    np.testing.assert_array_equal(clipped.arrival_s, trace.arrival_s)
    for new, old, most in (
        (clipped.prompt_tokens, trace.prompt_tokens, prompt),
        (clipped.output_tokens, trace.output_tokens, output),
    ):
        assert new.max() <= most
        np.testing.assert_array_equal(new[old <= most], old[old <= most])


GOOD = "arrival_s,prompt_tokens,output_tokens\n0,5,6\n"

BROKEN = {
    "empty": ("", r"is empty\. Name a file"),
    "blank": ("\n \n\n", r"is empty\. Name a file"),
    "header alone": ("arrival_s,prompt_tokens,output_tokens\n", "a header but no request"),
    "no prompt column": (
        "arrival_s,output_tokens\n0,5\n",
        r"lacks a column for prompt tokens \(prompt_tokens or .*It has: arrival_s, output_tokens",
    ),
    "no header": ("0,5,6\n1,5,6\n", "lacks a column for arrival time.*It has: 0, 5, 6.*first line"),
    "negative prompt": (
        GOOD + "1,-7,6\n",
        r"line 3, column 'prompt_tokens': '-7' is not allowed: must be a whole number from 0 to "
        r"10000000\. Correct or remove the line\.",
    ),
    "negative output": (GOOD + "1,7,-6\n", "line 3, column 'output_tokens': '-6'"),
    "part of a token": (GOOD + "1,7.5,6\n", "line 3, column 'prompt_tokens': '7.5'"),
    "no number": (GOOD + "1,seven,6\n", "line 3, column 'prompt_tokens': 'seven'"),
    "empty cell": (GOOD + "1,,6\n", "line 3, column 'prompt_tokens': ''"),
    "nan tokens": (GOOD + "1,nan,6\n", "line 3, column 'prompt_tokens': 'nan'"),
    "too long": (GOOD + "1,1e9,6\n", "line 3, column 'prompt_tokens': '1e9'"),
    "nan time": (GOOD + "\nnan,5,6\n", "line 4, column 'arrival_s': 'nan' .* a number of at most"),
    "infinite time": (GOOD + "inf,5,6\n", "line 3, column 'arrival_s': 'inf'"),
    "time in ns": (GOOD + "1.7e18,5,6\n", "line 3, column 'arrival_s'"),
    "date among numbers": (GOOD + "2023-11-16 18:15:46,5,6\n", "line 3, column 'arrival_s'"),
    "no date": ("arrival_s,prompt_tokens,output_tokens\nnoon,5,6\n", "line 2.*'noon'.*a date and"),
    "short row": (GOOD + "1,5\n", "line 3: has no column 'output_tokens'"),
    "nul byte": (GOOD + "1,\0,5\n", "line 3"),
    "huge cell": (GOOD + "1," + "9" * 200_000 + ",5\n", "line 3, column .prompt_tokens.: .9{39}"),
    "quote left open": (GOOD + '1,"' + "9" * (1 << 24) + ",5\n", "line 3: is not CSV"),
    "all failed": (
        "arrival_s,prompt_tokens,output_tokens\n0,5,0\n",
        "none of its 1 requests has both",
    ),
    "broken json": (
        '{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}\n{"arr',
        "line 2: is not JSON",
    ),
    "json list": ("[[0, 1, 2]]\n", "line 1: is a JSON list, not an object"),
    "json key missing": (
        '{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}\n{"arrival_s": 1}\n',
        "line 2: has no column 'prompt_tokens'",
    ),
    "json null": (
        '{"arrival_s": 0, "prompt_tokens": null, "output_tokens": 1}\n',
        "line 1, column 'prompt_tokens': None",
    ),
    "json truth": (
        '{"arrival_s": 0, "prompt_tokens": true, "output_tokens": 1}\n',
        "line 1, column 'prompt_tokens': True",
    ),
    "json deep": ("[" * 100_000 + "\n", "line 1: is not JSON"),
    "json huge integer": (
        '{"arrival_s": 0, "prompt_tokens": 1' + "0" * 400 + ', "output_tokens": 1}\n',
        r"line 1, column 'prompt_tokens': 10+\.\.\. is not allowed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_place_and_the_remedy(tmp_path: Path, name: str) -> None:
    text, message = BROKEN[name]
    file = write(tmp_path / "broken", text)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent\.csv: no such file\. Check the path"):
        read_trace(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match=r"is a directory\. Name one of the files in it"):
        read_trace(tmp_path)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(GOOD.encode() * 1000)[:-30])
    with pytest.raises(TraceError, match=r"cut\.csv\.gz: cannot be read .*complete"):
        read_trace(cut)
    packed = tmp_path / "packed.csv.xz"
    packed.write_bytes(b"\xfd7zXZ\x00\xff\xfe")
    with pytest.raises(TraceError, match=r"is not UTF-8 text .*Convert or unpack"):
        read_trace(packed)


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(write(tmp_path / "t.csv", GOOD) / "below.csv")


def test_a_path_no_system_can_open_is_refused() -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace("a\0b")


def test_the_wrong_format_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", GOOD)
    with pytest.raises(TraceError, match=r"as 'azure' it lacks a column for arrival time"):
        read_trace(file, "azure")
    with pytest.raises(TraceError, match=r"is CSV, not JSONL\. Give the format 'csv' or 'auto'"):
        read_trace(file, "jsonl")
    with pytest.raises(
        UnknownNameError, match=r"unknown trace format 'azur'.*Did you mean 'azure'"
    ):
        read_trace(file, "azur")


@given(
    text=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.text('0123456789.,-"{}[]:\n\rabe_ ', max_size=200).map(lambda s: (GOOD + s).encode()),
        st.text('0123456789.,-"{}[]:\n ntrue', max_size=80).map(
            lambda s: (mooncake_jsonl([(0, 1, 1)]) + s).encode()
        ),
    ),
    gzipped=st.booleans(),
    trace_format=st.sampled_from(FORMAT_NAMES),
)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_file_gives_anything_but_a_trace_or_a_trace_error(
    tmp_path: Path, text: bytes, gzipped: bool, trace_format: str
) -> None:
    file = tmp_path / "fuzz"
    file.write_bytes(gzip.compress(text, 1) if gzipped else text)
    with structlog.testing.capture_logs():
        outcome = trace_or_error(file, trace_format)
    if isinstance(outcome, Trace):
        assert outcome.arrival_s[0] == 0
    else:
        assert str(file) in str(outcome)


@pytest.mark.data
def test_the_azure_hour_reads_as_its_source_describes_it() -> None:
    file = DATA / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv.gz"
    if not file.exists():
        pytest.skip("needs the measurements in ../shared/data (azure-llm-2023)")
    trace = read_trace(file, "azure")
    assert len(trace) == 19_366
    assert trace.prompt_tokens.mean() == pytest.approx(1155, abs=1)
    assert trace.output_tokens.mean() == pytest.approx(211, abs=1)
    assert mean_rate_rps(trace) == pytest.approx(5.5, abs=0.1)


@pytest.mark.data
def test_the_mooncake_trace_reads_in_milliseconds() -> None:
    file = DATA / "mooncake-synthetic" / "synthetic_trace.csv.gz"
    if not file.exists():
        pytest.skip("needs the measurements in ../shared/data (mooncake-synthetic)")
    trace = read_trace(file, max_prompt_tokens=32_768)
    assert len(trace) == 3993
    assert trace.arrival_s[-1] == pytest.approx(1022, abs=1)
    assert trace.prompt_tokens.max() == 32_768
