"""`voltana top` against agents that answer, do not answer, and answer nonsense."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.cli.top_view import Answer, ask_all, render
from voltana.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUS = {
    "instance": "decode-0",
    "role": "decode",
    "health": "ok",
    "dry_run": True,
    "clock_mhz": 1005.0,
    "target_mhz": 990.0,
    "running_requests": 31,
    "kv_tokens": 40_123,
    "queued_requests": 2,
    "latency_p99_ms": 44.25,
    "slo_ms": 65.0,
    "attainment": 0.9987,
    "power_w": 231.4,
    "energy_j": 75_000.0,
    "saving": 0.25,
    "guarantee": {"missed": 3.0, "bound": 17.6, "lost": 2},
    "viability": {"broken_share": 0.0042, "outside_share": 0.013},
}


@pytest.fixture
def agent() -> Iterator[Callable[[Any], str]]:
    """Starts an agent that gives an answer, and yields its address."""
    servers = []

    def start(answer: Any) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/status" else 404)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shown(*answers: Answer) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(answers))
    return capture.get()


def test_without_a_terminal_it_prints_one_table(agent: Callable[[Any], str]) -> None:
    address = agent(STATUS)
    result = CliRunner().invoke(app, ["top", address], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for text in (
        "decode-0",
        "ok, dry run",
        "1005 > 990",
        "40123",
        "44.2",
        "99.9 %",
        "231",
        "75.0",
        "3/18",
        "0.4/1.3",
    ):
        assert text in result.output
    assert "1 agents, 231 W, 75.0 kJ, estimated saving 25.0 %" in result.output


def test_json_holds_what_the_agents_said(agent: Callable[[Any], str]) -> None:
    address = agent(STATUS)
    result = CliRunner().invoke(app, ["top", "--json", address])
    assert json.loads(result.output) == [{"address": address, "error": "", **STATUS}]


def test_addresses_come_from_the_file_of_a_launch(agent: Callable[[Any], str], tmp_path) -> None:
    listed = tmp_path / "agents.json"
    listed.write_text(json.dumps([agent(STATUS)]))
    result = CliRunner().invoke(app, ["top", "--json", "--from", str(listed)])
    assert json.loads(result.output)[0]["instance"] == "decode-0"


def test_without_addresses_it_says_how_to_give_them(tmp_path) -> None:
    result = CliRunner().invoke(app, ["top", "--from", str(tmp_path / "none.json")])
    assert isinstance(result.exception, ConfigError)
    assert "voltana-sglang launch" in str(result.exception)


@pytest.mark.parametrize("period", ["0", "-1", "nan"])
def test_the_period_must_be_positive(period: str) -> None:
    result = CliRunner().invoke(app, ["top", "--period", period, "http://127.0.0.1:1"])
    assert "above 0 s" in str(result.exception)


def test_an_agent_that_is_gone_does_not_hide_the_others(agent: Callable[[Any], str]) -> None:
    answers = ask_all(["http://127.0.0.1:9", agent(STATUS), agent([1])])
    assert [bool(answer.error) for answer in answers] == [True, False, True]
    text = shown(*answers)
    assert "does not answer" in text
    assert "something else" in text
    assert "decode-0" in text


def test_what_is_unknown_shows_as_a_dash() -> None:
    said = {"instance": "p", "clock_mhz": None, "power_w": float("nan"), "kv_tokens": "many"}
    text = shown(Answer(address="http://x", status=said))
    assert text.count("-") > 8
    assert "1 agents" in text
    assert "kJ, estimated" not in text


@pytest.mark.parametrize("form", ["--once", "--json"])
def test_where_no_agent_answers_the_exit_code_says_so(
    agent: Callable[[Any], str], form: str
) -> None:
    gone, here = "http://127.0.0.1:9", agent(STATUS)
    assert CliRunner().invoke(app, ["top", form, gone]).exit_code == 1
    assert CliRunner().invoke(app, ["top", form, gone, here]).exit_code == 0


@pytest.mark.parametrize("text", ["", "file:///etc/passwd", "http://[::1", "a b", "h:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    result = CliRunner().invoke(app, ["top", "--once", text])
    assert isinstance(result.exception, ConfigError)
    assert "an address such as http://127.0.0.1:31200" in str(result.exception)


@pytest.mark.parametrize("listed", ["3", "[]", '{"a": 1}', "nonsense"])
def test_a_file_without_a_list_of_addresses_is_refused(tmp_path, listed: str) -> None:
    (tmp_path / "agents.json").write_text(listed)
    result = CliRunner().invoke(app, ["top", "--from", str(tmp_path / "agents.json")])
    assert isinstance(result.exception, ConfigError)


def test_the_total_saving_weighs_agents_by_energy() -> None:
    small = STATUS | {"energy_j": 1_000.0, "saving": 0.5}
    large = STATUS | {"energy_j": 9_000.0, "saving": 0.0}
    text = shown(*(Answer(address="x", status=said) for said in (small, large)))
    assert "10.0 kJ, estimated saving 9.1 %" in text


def test_a_narrow_terminal_cuts_no_number(agent: Callable[[Any], str]) -> None:
    address = agent(STATUS)
    result = CliRunner().invoke(app, ["top", address], env={"COLUMNS": "80"})
    for text in ("decode-0", "1005 > 990", "44.2", "65", "99.9 %", "231", "25.0 %"):
        assert text in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_an_address_may_lack_its_scheme(agent: Callable[[Any], str]) -> None:
    (answer,) = ask_all([agent(STATUS).removeprefix("http://")])
    assert answer.status["instance"] == "decode-0"


def test_something_that_speaks_no_http_does_not_end_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"220 mail.example.com\r\n")

        threading.Thread(target=answer, daemon=True).start()
        (found,) = ask_all([f"127.0.0.1:{listener.getsockname()[1]}"])
    assert "does not answer" in found.error


def test_an_account_that_is_none_shows_a_dash() -> None:
    for account in (None, [], {"missed": None, "bound": 2.0}, "x"):
        row = shown(Answer(address="a", status={"instance": "d", "guarantee": account}))
        assert "missed/most" in row
        assert "/2" not in row


ACCOUNT = {
    "certified": 900.0, "missed": 3.0, "bound": 20.9, "violated": 2.0, "forgiven": 1.0,
    "overdue": 4, "blocked": 77.0, "lost": 6, "unlabelled": {"record lost": 5, "restart": 1},
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 160])
def test_the_whole_account_is_seen_in_any_terminal(width: int) -> None:
    said = STATUS | {"guarantee": ACCOUNT}
    console = Console(width=width, record=True, quiet=False)
    console.print(render([Answer(address="a", status=said)], width))
    text = console.export_text()
    head = next(line for line in text.splitlines() if "why lost" in line)
    row = text.splitlines()[text.splitlines().index(head) + 2]
    for title in ("certified", "missed", "most", "forgiven", "overdue", "blocked", "lost"):
        assert title in head
    assert row.split()[:9] == ["decode-0", "900", "3", "21", "2", "1", "4", "77", "6"]
    assert "record lost 5" in " ".join(text.split())


def test_agents_that_promise_nothing_have_no_account() -> None:
    console = Console(width=80, record=True, quiet=False)
    console.print(render([Answer(address="a", status={"instance": "d", "guarantee": {}})], 80))
    assert "why lost" not in console.export_text()
