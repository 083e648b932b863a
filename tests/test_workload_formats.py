"""Every trace format, with every oddity: the values that were written are those that are read."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.traces import WRITERS as TRACES
from benchmarks.traces import measure
from tests.trace_writers import WRITERS, Oddities, Writer
from voltana.errors import TraceError
from voltana.plant.workload import FORMAT_NAMES, Trace, read_trace

ROOT = Path(__file__).parents[1]
CASES = ROOT / ".." / "shared" / "cases"
DOCS = ROOT / "docs" / "workloads.md"

rows_strategy = st.lists(
    st.tuples(st.integers(0, 10**7), st.integers(1, 200_000), st.integers(1, 50_000)),
    min_size=1,
    max_size=12,
)
oddities = st.builds(
    Oddities,
    bom=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoted=st.booleans(),
    gaps=st.booleans(),
    mixed_case=st.booleans(),
    delimiter=st.sampled_from(",;\t|"),
    array=st.booleans(),
    indented=st.booleans(),
    failures=st.booleans(),
    seed=st.integers(0, 99),
)
reuse_folder = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(file: Path, *args: str, **options: str) -> Trace:
    with structlog.testing.capture_logs():
        return read_trace(file, *args, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", WRITERS)
@given(rows=rows_strategy, odd=oddities, gzipped=st.booleans(), auto=st.booleans())
@reuse_folder
def test_what_is_written_is_what_is_read(
    tmp_path: Path, kind: str, *, rows: list, odd: Oddities, gzipped: bool, auto: bool
) -> None:
    writer: Writer = WRITERS[kind]
    data = writer.write(rows, odd)
    file = written(tmp_path / "trace", gzip.compress(data, 1) if gzipped else data)
    trace = read(file, "auto" if auto else writer.name, **writer.options)
    ms, prompts, outputs = np.array(sorted(rows, key=lambda row: row[0])).T
    np.testing.assert_allclose(trace.arrival_s, (ms - ms[0]) / 1e3, atol=1e-6)
    np.testing.assert_array_equal(trace.prompt_tokens, prompts)
    np.testing.assert_array_equal(trace.output_tokens, outputs)


turns_strategy = st.lists(
    st.lists(
        st.tuples(st.integers(0, 60_000), st.integers(1, 4000), st.integers(1, 900)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=5,
)


@given(sessions=turns_strategy, odd=oddities, auto=st.booleans())
@reuse_folder
def test_later_turns_of_a_session_carry_its_history(
    tmp_path: Path, sessions: list, odd: Oddities, auto: bool
) -> None:
    rows, expected = [], []
    for number, turns in enumerate(sessions):
        at_ms, context = 0, 0
        for turn, (delay_ms, prompt, output) in enumerate(turns):
            at_ms += delay_ms
            when = {"timestamp": at_ms} if turn == 0 else {"delay": delay_ms}
            rows.append(
                {
                    "session_id": f"s{number}",
                    **when,
                    "input_length": prompt,
                    "output_length": output,
                }
            )
            expected.append((at_ms, context + prompt, output))
            context += prompt + output
    newline = odd.newline * 2 if odd.gaps else odd.newline
    file = written(tmp_path / "sessions", newline.join(json.dumps(row) for row in rows))
    trace = read(file, "auto" if auto else "aiperf")
    ms, prompts, outputs = np.array(sorted(expected, key=lambda row: row[0])).T
    np.testing.assert_allclose(trace.arrival_s, (ms - ms[0]) / 1e3, atol=1e-6)
    np.testing.assert_array_equal(trace.prompt_tokens, prompts)
    np.testing.assert_array_equal(trace.output_tokens, outputs)


class TestTheUnitOfTimes:
    """Second timestamps in a format of milliseconds, and the other way round."""

    @staticmethod
    def mooncake(folder: Path, times: list[float]) -> Path:
        lines = [json.dumps({"timestamp": t, "input_length": 9, "output_length": 3}) for t in times]
        return written(folder / "t.jsonl", "\n".join(lines))

    @pytest.mark.parametrize(
        ("name", "last_s", "said"), [("chat.jsonl", 78.0, 0), ("seconds.jsonl", 19.5, 1)]
    )
    def test_case_03_is_read_as_seconds(self, name: str, last_s: float, said: int) -> None:
        file = CASES / "03-seconds-as-ms" / name
        if not file.exists():
            pytest.skip("needs the cases in ../shared/cases (03-seconds-as-ms)")
        with structlog.testing.capture_logs() as logs:
            trace = read_trace(file)
        assert trace.arrival_s[-1] == pytest.approx(last_s)
        assert len(trace) == 40
        assert len(logs) == said  # only where nothing but the times tells the unit

    @given(gaps_ms=st.lists(st.floats(200, 5000), min_size=20, max_size=120), late=st.booleans())
    @reuse_folder
    def test_seconds_and_milliseconds_are_told_by_the_span(
        self, tmp_path: Path, gaps_ms: list[float], late: bool
    ) -> None:
        ms = np.cumsum([0.0, *gaps_ms]).round()
        expected = ms / 1e3
        np.testing.assert_allclose(
            read(self.mooncake(tmp_path, ms.tolist())).arrival_s, expected, atol=1e-6
        )
        seconds = expected + 0.25 * late
        trace = read(self.mooncake(tmp_path, seconds.tolist()))
        np.testing.assert_allclose(trace.arrival_s, expected, atol=1e-6)

    def test_whole_seconds_are_told_where_enough_requests_agree(self, tmp_path: Path) -> None:
        file = self.mooncake(tmp_path, [float(i // 3) for i in range(200)])
        with structlog.testing.capture_logs() as logs:
            trace = read_trace(file)
        assert trace.arrival_s[-1] == 66
        assert "took the times for seconds: as milliseconds, 200 requests" in logs[0]["event"]
        assert "--time-unit" in logs[0]["event"]

    def test_a_few_whole_milliseconds_stay_what_the_format_says(self, tmp_path: Path) -> None:
        assert read(self.mooncake(tmp_path, [0, 105, 274])).arrival_s[-1] == pytest.approx(0.274)
        assert read(self.mooncake(tmp_path, [0, 1, 2])).arrival_s[-1] == pytest.approx(0.002)

    @pytest.mark.parametrize(
        ("step", "count", "column", "other"),
        [
            (2, 40, "input_length", "seconds"),  # whole seconds in a format of milliseconds
            (3, 100, "input_length", "seconds"),
            (1000, 3, "prompt_tokens", "milliseconds"),
            (40, 20, "prompt_tokens", "milliseconds"),
        ],
    )
    def test_a_guess_that_may_be_wrong_is_said_and_can_be_overridden(
        self, tmp_path: Path, step: int, count: int, column: str, other: str
    ) -> None:
        output = "output_length" if column == "input_length" else "output_tokens"
        rows = [{"timestamp": step * i, column: 9, output: 3} for i in range(count)]
        file = written(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
        with structlog.testing.capture_logs() as logs:
            guessed = read_trace(file)
        assert f"they may be {other}; --time-unit" in logs[0]["event"]
        unit = {"seconds": "s", "milliseconds": "ms"}[other]
        with structlog.testing.capture_logs() as logs:
            asked = read_trace(file, time_unit=unit)
        assert not logs
        factor = {"s": 1e3, "ms": 1e-3}[unit]
        np.testing.assert_allclose(asked.arrival_s, guessed.arrival_s * factor)

    def test_usual_rates_are_not_doubted(self, tmp_path: Path) -> None:
        with structlog.testing.capture_logs() as logs:
            read_trace(self.mooncake(tmp_path, [150.0 * i for i in range(30)]))
        assert not logs

    def test_fractions_of_milliseconds_are_said(self, tmp_path: Path) -> None:
        file = self.mooncake(tmp_path, [0.5, 98.25, 210.75])
        with structlog.testing.capture_logs() as logs:
            trace = read_trace(file)
        assert trace.arrival_s[-1] == pytest.approx(0.21025)
        assert "milliseconds, though they have fractions" in logs[0]["event"]

    @pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
    def test_times_since_1970_tell_their_unit(
        self, tmp_path: Path, unit: str, per_s: float
    ) -> None:
        start = 1_700_000_000
        rows = "".join(f"{round((start + i / 2) * per_s)},9,3\n" for i in range(0, 40, 2))
        file = written(tmp_path / unit, "timestamp,prompt_tokens,output_tokens\n" + rows)
        assert read(file).arrival_s[-1] == pytest.approx(19, abs=1e-6)

    @pytest.mark.parametrize(("unit", "seconds"), [("s", 1), ("ms", 1e-3), ("us", 1e-6)])
    def test_a_user_has_the_last_word(self, tmp_path: Path, unit: str, seconds: float) -> None:
        file = self.mooncake(tmp_path, [0.0, 0.5, 1.0, 1.5])
        assert read(file, time_unit=unit).arrival_s[-1] == pytest.approx(1.5 * seconds)


def test_case_11_a_field_of_any_prompt_is_read() -> None:
    file = CASES / "11-csv-long-field" / "long.csv"
    if not file.exists():
        pytest.skip("needs the cases in ../shared/cases (11-csv-long-field)")
    trace = read_trace(file)
    assert trace.prompt_tokens.tolist() == [30_000, 3]


def documented(heading: str) -> list[list[str]]:
    """Rows of the table under a heading of docs/workloads.md."""
    text = DOCS.read_text(encoding="utf-8").split(heading)[1].split("\n\n| ")[1].split("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def example(cell: str) -> str:
    """The lines of an example, which stand in code spans."""
    return "\n".join(re.findall(r"`([^`]+)`", cell)) + "\n"


def test_the_documentation_has_every_format() -> None:
    named = {row[0].strip("`") for row in documented("### Formats")}
    assert named == set(FORMAT_NAMES) - {"auto"}


@pytest.mark.parametrize("row", documented("### Formats"), ids=lambda row: row[0])
def test_the_documented_example_of_a_format_is_read(tmp_path: Path, row: list[str]) -> None:
    file = written(tmp_path / "example", example(row[-1]))
    name = row[0].strip("`")
    told, named = read(file), read(file, name)
    assert told.prompt_tokens.min() >= 1
    np.testing.assert_array_equal(told.arrival_s, named.arrival_s)
    np.testing.assert_array_equal(told.prompt_tokens, named.prompt_tokens)
    np.testing.assert_array_equal(told.output_tokens, named.output_tokens)


@pytest.mark.parametrize("row", documented("### What is refused"), ids=lambda row: row[0])
def test_what_is_refused_names_the_documented_remedy(tmp_path: Path, row: list[str]) -> None:
    file = written(tmp_path / "example", example(row[1]))
    with pytest.raises(TraceError) as refusal:
        read(file)
    said = str(refusal.value)
    assert example(row[2]).strip() in said
    assert said.startswith(str(file))
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1},', "line 1: is not JSON"),
        (
            '[\n{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1},\n7]',
            "line 3: is a JSON int",
        ),
        (
            '[\n{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1},\n{"a]',
            "line 3: is not JSON",
        ),
        ("[]", "holds no request"),
        ('[{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}] more', "follows the array"),
        (
            '{"arrival_s": [0, 1], "prompt_tokens": [1], "output_tokens": [1, 1]}',
            "differ in length",
        ),
        ('{"arrival_s": [0, 1], "prompt_tokens": 1, "output_tokens": [1, 1]}', "only some of"),
        ('{"arrival_s": [], "prompt_tokens": [], "output_tokens": []}', "holds no request"),
        ('{"session_id": 1, "delay": 3, "input_length": 1, "output_length": 1}', "timestamp"),
        ('{"benchmarks": []}', "a report of GuideLLM without requests"),
        ('{"experiments": []}', "an export of genai-perf without requests"),
        ('{"metadata": 1, "metrics": 2}', "holds no request"),
    ],
)
def test_broken_json_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path / "broken", text)
    with pytest.raises(TraceError, match=message) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))


def test_a_log_that_is_dated_only_in_part_is_refused(tmp_path: Path) -> None:
    odd = Oddities()
    data = WRITERS["sglang, json"].write([(0, 1, 1)], odd)
    data += WRITERS["sglang, without metrics"].write([(5, 1, 1)], odd)
    with pytest.raises(TraceError, match=r"line 4: says no request_received_ts.*Split the log"):
        read(written(tmp_path / "log", data))


def test_an_engine_log_without_a_finished_request_is_refused(tmp_path: Path) -> None:
    line = "[2026-11-26 13:41:26] Receive: obj=GenerateReqInput(rid='abc', stream=True)\n"
    with pytest.raises(TraceError, match=r"no request finishes .*--log-requests"):
        read(written(tmp_path / "log", line))


@given(
    text=st.text('0123456789.,-"{}[]:\n abde_', max_size=120),
    start=st.sampled_from(
        [
            '[{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}',
            '{"benchmarks": [{"requests": {"successful": [',
            '{"experiments": [{"requests": [',
            '{"session_id": 1, "timestamp": 0, "input_length": 1, "output_length": 1}',
            '{"metadata": {"request_start_ns": 1}, "metrics": {}}',
            '[2026-11-26 13:41:26] {"timestamp": "x", "event": "request.finished", ',
            "[2026-11-26 13:41:26] Finish: obj=G(), out={'meta_info': {",
            "arrival_s;prompt_tokens;output_tokens\n",
        ]
    ),
    trace_format=st.sampled_from(FORMAT_NAMES),
)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_file_gives_anything_but_a_trace_or_one_line(
    tmp_path: Path, text: str, start: str, trace_format: str
) -> None:
    file = written(tmp_path / "fuzz", start + text)
    try:
        trace = read(file, trace_format)
    except TraceError as error:
        assert str(file) in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert trace.arrival_s[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_a_million_rows_take_little_more_than_parsing_them_and_300_mb(name: str) -> None:
    before_s = parsing_s(500_000)
    figures = measure(TRACES[name], 1_000_000)
    assert figures["requests"] == 1_000_000
    assert figures["seconds"] < 8 * (before_s + parsing_s(500_000))  # 15 s on many a machine
    assert figures["peak_mb"] < 300


def parsing_s(lines: int) -> float:
    """CPU time that Python's own parser takes for so many short lines of JSON, here and now."""
    line = json.dumps({"arrival_s": 1.25, "prompt_tokens": 512, "output_tokens": 128, "id": "a-7"})
    began_s = time.process_time()
    for _ in range(lines):
        json.loads(line)
    return time.process_time() - began_s


@pytest.mark.parametrize("dates_first", [True, False])
def test_dates_and_numbers_in_one_column_are_refused_by_line(
    tmp_path: Path, dates_first: bool
) -> None:
    times = ["2024-05-10T00:00:01Z", 1_715_299_202]
    rows = [
        {"timestamp": time, "input_tokens": 9, "output_tokens": 3}
        for time in (times if dates_first else times[::-1])
    ]
    file = written(tmp_path / "mixed", "\n".join(map(json.dumps, rows)))
    with pytest.raises(TraceError, match="line 2, column 'timestamp'"):
        read(file)


def test_an_engine_that_says_much_before_its_first_request_is_told(tmp_path: Path) -> None:
    talk = "[2026-01-05 13:41:20 TP0] Capture cuda graph.\n" * 8000
    entry = {
        "timestamp": "2026-01-05T13:41:26.484236",
        "event": "request.finished",
        "out": {"meta_info": {"prompt_tokens": 12, "completion_tokens": 3, "e2e_latency": 1.0}},
    }
    line = f"[2026-01-05 13:41:26] {json.dumps(entry)}\n"
    assert read(written(tmp_path / "late.log", talk + line)).prompt_tokens.tolist() == [12]
    with pytest.raises(TraceError, match="no request finishes in this log"):
        read(written(tmp_path / "never.log", talk))


def test_blanks_before_quoted_cells_are_no_part_of_them(tmp_path: Path) -> None:
    text = '"arrival_s", "prompt_tokens", "output_tokens"\n"0", "9", "3"\n'
    assert read(written(tmp_path / "t.csv", text)).prompt_tokens.tolist() == [9]


@pytest.mark.parametrize("head", ["PK\x03\x04", "PAR1\x15\x04", "\x01\x02,\x1b[31m"])
def test_what_is_no_text_is_refused_without_showing_it(tmp_path: Path, head: str) -> None:
    with pytest.raises(TraceError, match="is binary, not text") as caught:
        read(written(tmp_path / "t", head + "x" * 100))
    assert str(caught.value).isprintable()


def test_a_missing_column_is_said_in_a_line_that_can_be_read(tmp_path: Path) -> None:
    text = "a,b,\x1b[31mred\n1,2,3\n".replace("\x1b", "\x9b")
    with pytest.raises(TraceError, match=r"or others, see docs/workloads\.md") as caught:
        read(written(tmp_path / "t", text))
    assert len(str(caught.value)) < len(str(tmp_path)) + 500
    assert str(caught.value).isprintable()
