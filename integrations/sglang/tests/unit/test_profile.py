"""A calibration of a server whose latency is known: what comes out is what was put in."""

from __future__ import annotations

import collections
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from voltana.errors import ConfigError
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.profile import Stack
from voltana.serving.profile.command import _design, _measure, _save
from voltana.serving.profile.report import held_back_errors
from voltana.serving.profile.run import Iteration, ProfiledServer, ProfileRunError
from voltana.values import Load, Outcome, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STACK = Stack(hardware="h100-sxm", model="tiny", engine="sglang", engine_version="0.5.23")
CLOCKS = (705.0, 1005.0, 1410.0)
VISITS = 3


class Engine(http.server.ThreadingHTTPServer):
    """Answers as SGLang does, and measures what it never ran."""

    daemon_threads = True

    def __init__(self, role: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.role = role
        self.clock_mhz = CLOCKS[-1]
        self.measured: list[Iteration] = []
        self.bodies: list[dict[str, Any]] = []
        self.about: Any = None
        self.rng = np.random.default_rng(3)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def generate(self, body: dict[str, Any]) -> None:
        self.bodies.append(body)
        lengths = [len(ids) for ids in body["input_ids"]]
        if self.role != "decode":
            self._ran(Load.prefill((length, 0) for length in lengths))
        for step in range(body["sampling_params"]["max_new_tokens"] - 1):
            self._ran(Load.decode(len(lengths), sum(lengths) + step * len(lengths)))

    def drain(self) -> list[Iteration]:
        measured, self.measured = self.measured, []
        return measured

    def set(self, clock_mhz: float) -> float:
        self.clock_mhz = clock_mhz
        return clock_mhz

    def hold(self) -> None:
        pass

    def _ran(self, load: Load) -> None:
        noise = self.rng.normal(1.0, 0.01)
        self.measured.append(Iteration(load, latency_s(load, self.clock_mhz) * noise))


def latency_s(load: Load, clock_mhz: float) -> float:
    slow = 1410.0 / clock_mhz
    if load.prefill_tokens:
        tiles = -(-load.prefill_tokens // 128)
        return 4e-3 + slow * (2e-3 * tiles + 2e-10 * load.prefill_attended_pairs)
    rows = -(-load.decode_requests // 8) * 8
    return 6e-3 + slow * (1e-3 + 2e-5 * rows) + 4e-8 * load.decode_kv_tokens


class Handler(http.server.BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        about: Any = {
            "max_total_num_tokens": 100_000,
            "max_req_input_len": 8000,
            "max_running_requests": 64,
            "chunked_prefill_size": 4096,
            "disaggregation_mode": "null" if self.server.role == "unified" else self.server.role,
            "served_model_name": "tiny",
            "version": "0.5.23",
            "tp_size": 1,
        }
        about = about if self.server.about is None else self.server.about
        self._answer(about if self.path == "/server_info" else {"model_path": "tiny"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/generate":
            self.server.generate(json.loads(body))
            self._answer([])
        else:
            self._answer(None)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, values: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"flushed" if values is None else json.dumps(values).encode())


@pytest.fixture(params=["unified", "prefill", "decode"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr("voltana.serving.profile.run._SETTLE_S", 0.001)
    made = Engine(request.param)
    yield made
    made.shutdown()
    made.server_close()


def calibrate(engine: Engine, out: Path) -> tuple[list[Outcome], list[Outcome]]:
    server = ProfiledServer(engine.url)
    designs = [_design(server, phase, CLOCKS, seed=0) for phase in server.phases]
    fitted, held_back = _measure(
        server,
        designs,
        engine,
        engine,  # type: ignore[arg-type]
        visits=VISITS,
        seed=0,
    )
    _save(STACK, max(CLOCKS), fitted, out)
    return fitted, held_back


def test_a_known_latency_is_found_from_few_points(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    fitted, held_back = calibrate(engine, out)
    errors = held_back_errors(out, fitted, held_back)
    phases = {"unified": 2, "prefill": 1, "decode": 1}[engine.role]
    assert len(errors) == phases
    for error in errors:
        assert error.mean_relative_error < 0.03, error
        assert error.mae_ms < error.baseline_ms / 3, error
        # One per cent of noise was put in; its mean absolute deviation is sqrt(2 / pi) of that.
        assert error.noise_ms == pytest.approx(0.8e-2 * _mean_ms(held_back, error.phase), rel=0.5)


def _mean_ms(outcomes: list[Outcome], phase: Phase) -> float:
    return 1e3 * float(np.mean([o.latency_s for o in outcomes if o.load.phase is phase]))


def test_what_changes_slowly_is_noise_too(tmp_path: Path) -> None:
    """A machine that is 20 % slower in one visit, whatever the load, and steady within each."""
    loads = [Load.decode(requests, 100 * requests + step) for requests in (1, 8) for step in (0, 1)]
    visits = [
        [Outcome(load=load, clock_mhz=1410.0, latency_s=s, ended_at_s=0.0) for load in loads]
        for s in (1.0e-2, 1.2e-2)
    ]
    fitted = [outcome for _ in range(4) for visit in visits for outcome in visit]
    _save(STACK, 1410.0, fitted, tmp_path / "profile.json")
    held_back = visits[0] + visits[1]
    (error,) = held_back_errors(tmp_path / "profile.json", fitted, held_back)
    assert error.noise_ms == pytest.approx(1.0 * np.sqrt(2.0))
    (alone,) = held_back_errors(tmp_path / "profile.json", fitted, visits[0])
    assert np.isnan(alone.noise_ms)


def test_every_visit_takes_every_point(engine: Engine, tmp_path: Path) -> None:
    fitted, held_back = calibrate(engine, tmp_path / "profile.json")
    measured = collections.Counter((o.load, o.clock_mhz) for o in fitted + held_back)
    assert {count % VISITS for count in measured.values()} == {0}


def test_the_profile_starts_a_predictor(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    calibrate(engine, out)
    predictor = EcoPred.from_profile(out)
    load = Load.prefill([(500, 0)]) if engine.role == "prefill" else Load.decode(24, 20_000)
    forecast = predictor.forecast(load, np.array(CLOCKS))
    truth = np.array([latency_s(load, clock) for clock in CLOCKS])
    assert np.abs(forecast.mean_s / truth - 1).max() < 0.05
    assert (forecast.upper_s >= truth).all()
    assert json.loads(out.read_text())["stack"] == STACK.model_dump()


def test_halves_of_a_pair_are_measured_with_a_faked_transfer(
    engine: Engine, tmp_path: Path
) -> None:
    calibrate(engine, tmp_path / "profile.json")
    for body in engine.bodies:
        faked = set(body.get("bootstrap_host", ()))
        assert faked == (set() if engine.role == "unified" else {"2.2.2.2"})
        assert len(set(body.get("bootstrap_room", ()))) == len(body.get("bootstrap_room", ()))


def test_no_prompt_is_sent_twice(engine: Engine, tmp_path: Path) -> None:
    calibrate(engine, tmp_path / "profile.json")
    sent = [tuple(ids) for body in engine.bodies for ids in body["input_ids"]]
    assert len(set(sent)) == len(sent)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ProfileRunError, match=r"127\.0\.0\.1:9/server_info does not answer"):
        ProfiledServer("http://127.0.0.1:9")


def test_an_address_that_is_no_server_s_is_named(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"Write http://HOST:PORT"):
        ProfiledServer("127.0.0.1:30000")
    engine.about = {"internal_states": [{}]}
    with pytest.raises(ProfileRunError, match="no router"):
        ProfiledServer(engine.url)
    engine.about = []
    with pytest.raises(ProfileRunError, match="answers as no SGLang server does"):
        ProfiledServer(engine.url)


def test_phases_without_held_back_points_are_left_out(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    fitted, _ = calibrate(engine, out)
    assert held_back_errors(out, fitted, []) == []
    assert Phase.IDLE not in {outcome.load.phase for outcome in fitted}
