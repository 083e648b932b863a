"""The benchmark of a machine with a GPU, without one: refusals, readings, results, page."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.beside import beside
from benchmarks.gpu.engine_times import EngineTime
from benchmarks.gpu.grid import is_of, of_plant
from benchmarks.gpu.page import BEGIN, END, MEASURED, write_page
from benchmarks.gpu.readings import Reading, ReadOnlyGpu, Sampler
from benchmarks.gpu.replay import errors_ms
from benchmarks.gpu.results import Results
from benchmarks.gpu.settings import Settings, model_of, parse, profile_of
from benchmarks.sglang.hook_costs import read_toggled
from tests.actuation import driver
from voltana.errors import ConfigError
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.serving.config import read_config
from voltana.serving.profile.design import Point
from voltana.serving.profile.run import Iteration
from voltana.serving.sensors.choosing import endpoints_of
from voltana.values import Load, Phase
from voltana_actuatord.drivers.opening import DRIVER_VARIABLE
from voltana_actuatord.faults import NotSupportedError
from voltana_sglang.config import SglangConfig

ROOT = Path(__file__).parents[1]
ABOUT = {"board": "A", "boards": 1, "driver": "1", "model": "m", "arguments": "", "hold_s": 5.0}


class Board:
    """A GPU whose power rises by 10 W a reading, at 1 ms a reading; nothing may set it."""

    uuid = "GPU-0"
    label = "0"

    def __init__(self, *, counts: bool = True) -> None:
        self._counts, self._reads = counts, 0

    def name(self) -> str:
        return "NVIDIA H100 80GB HBM3"

    def clock_mhz(self) -> float:
        self._reads += 1
        return 1980.0

    def power_w(self) -> float:
        return 100.0 + 10.0 * self._reads

    def energy_j(self) -> float:
        if not self._counts:
            raise NotSupportedError("no counter", 3)
        return 5.0 * self._reads

    def clocks_mhz(self) -> tuple[float, ...]:
        return (345.0, 1980.0)

    def event_reasons(self) -> frozenset[str]:
        raise NotSupportedError("no reasons", 3)

    def keeps_settings(self) -> bool:
        return True

    def power_limit_w(self) -> float:
        return 700.0

    def power_range(self) -> float:
        raise NotSupportedError("no range", 3)

    def _never(self, *_: object) -> None:
        raise AssertionError("a setting was changed")

    lock = reset = set_power_limit = _never


def test_the_view_of_a_board_has_nothing_that_sets():
    public = {name for name in dir(ReadOnlyGpu(Board())) if not name.startswith("_")}  # type: ignore[arg-type]
    assert public == {
        "clock_mhz", "energy_j", "facts", "name", "power_w", "readings", "uuid",
    }  # fmt: skip


def test_what_a_board_cannot_tell_is_null():
    facts = ReadOnlyGpu(Board()).facts()  # type: ignore[arg-type]
    assert facts["power_range_w"] is None
    assert facts["reasons"] == []
    assert facts["clocks_mhz"] == [345.0, 1980.0]


@pytest.mark.parametrize("counts", [True, False])
def test_readings_are_means_of_sensors_and_slopes_of_counters(counts):
    times = iter(range(1000))
    boards = tuple(ReadOnlyGpu(Board(counts=counts)) for _ in range(2))  # type: ignore[arg-type]
    with Sampler(boards, period_s=0.001, now=lambda: float(next(times))) as sampler:
        pass
    reading = sampler.reading()
    assert reading.clock_mhz == 1980.0
    assert reading.sensor_w == pytest.approx(2 * (100.0 + 5.0 * (reading.samples + 1)))
    if counts:
        assert reading.counter_w == pytest.approx(10.0)
    else:
        assert math.isnan(reading.counter_w)


def test_a_run_goes_on_where_it_ended_and_refuses_another_one(tmp_path):
    path = tmp_path / "results.json"
    first = Results(path, ABOUT)
    first.put_point("decode", "1 x 200", {"median_ms": math.nan})
    again = Results(path, ABOUT)
    assert again.points("decode") == {"1 x 200": {"median_ms": None}}
    assert again.step("idle", lambda: 1) == 1
    assert Results(path, ABOUT).step("idle", lambda: pytest.fail("measured again")) == 1
    with pytest.raises(ConfigError, match=r"another driver, hold_s: .* Choose another --out"):
        Results(path, ABOUT | {"driver": "2", "hold_s": 1.0})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"about": 1', '{"about": "x"}', '{"about": 1}', '{"decode": {}}', "null"]
)
def test_a_file_of_something_else_is_refused(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no results of this benchmark"):
        Results(path, ABOUT)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hold-s", "0"], "--hold-s = 0.0 is not allowed"),
        (["--rate", "nan"], "--rate = nan"),
        (["--load-s", "inf"], "--load-s = inf"),
        (["--engine-arguments", "'x"], "--engine-arguments"),
        (["--engine-environment", "A='x"], "--engine-environment"),
        (["--batches", "1,1"], "--batches = '1,1'"),
        (["--batches", "0"], "--batches"),
        (["--contexts", "x"], "--contexts = 'x'"),
        (["--gpus", "-1"], "--gpus = '-1'"),
        (["--first-port", "70000"], "--first-port = 70000"),
        (["--engine-environment", "X"], "--engine-environment = 'X'"),
        (["--steps", "board,lunch"], "--steps = 'board,lunch'"),
        (["--steps", ""], "--steps = ''"),
        (["--sensor", "forward-pass-metrics"], "--sensor = 'forward-pass-metrics'"),
        (["--prompt-tokens", "0"], "--prompt-tokens = 0"),
    ],
)
def test_wrong_options_are_refused_in_a_line(arguments, says, tmp_path, capsys):
    assert main(["--model", "m", "--out", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_the_profile_goes_by_the_name_of_the_board():
    settings = Settings(model="m", out=Path())
    names = {"NVIDIA H100 80GB HBM3": "h100-sxm", "NVIDIA H200": "h200-sxm",
             "NVIDIA A100-SXM4-80GB": "a100-sxm4-80gb"}  # fmt: skip
    for board, name in names.items():
        found = profile_of(settings, board)
        assert found is not None
        assert found.name == name
    others = ["Tesla T4", "NVIDIA GH200 480GB", "NVIDIA H200 NVL", "NVIDIA H100 PCIe"]
    others += ["NVIDIA H100 NVL", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA A100 80GB PCIe"]
    assert [profile_of(settings, board) for board in others] == [None] * len(others)
    assert model_of(settings) is None


def test_a_configuration_that_is_not_modelled_gives_no_plant(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert model_of(Settings(model=str(tmp_path), out=tmp_path)) is None


def test_servers_and_agent_are_told_to_leave_the_clock_alone():
    settings = parse(["--model", "m", "--engine-arguments", "--load-format dummy"])
    text = settings.configuration()
    assert '[actuator]\nkind = "dry-run"' in text
    assert '"--load-format", "dummy"' in text


def test_an_agent_without_the_plugin_is_told_what_messages_leave_open(tmp_path):
    """The benchmark's own configuration is one that the agent reads."""
    options = ["--model", "m", "--engine-times", "--sensor", "forward-pass-metrics"]
    path = tmp_path / "gpu.toml"
    path.write_text(
        parse([*options, "--kv-capacity", "500"]).configuration("unified-0", "ipc:///x.0")
    )
    read = read_config(path, SglangConfig)
    assert read.engine.sensor == "forward-pass-metrics"
    assert read.engine.kv_capacity_tokens == 500
    assert endpoints_of(read, "unified-0") == ("ipc:///x.0",)


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    folder = tmp_path_factory.mktemp("machine")
    made = driver.Machine(folder, driver.build(folder), devices=1)
    yield made
    made.close()


def test_without_a_driver_or_a_gpu_it_says_so(tmp_path, machine):
    done = run(tmp_path, "--model", "m", **machine.environment(**{DRIVER_VARIABLE: "nowhere:X"}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "driver = 'nowhere:X'" in done.stderr
    done = run(tmp_path, "--model", "m", "--gpus", "3", **machine.environment())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "3" in done.stderr


def test_without_sglang_it_says_so_and_sets_nothing(tmp_path, machine):
    done = run(tmp_path, "--model", "m", **machine.environment())
    assert done.returncode == 2
    assert "not installed in the environment" in done.stderr
    assert machine.get(0, "D_SET_CALLS") == machine.get(0, "D_CAP_CALLS") == 0


def test_a_folder_that_may_not_be_written_is_an_error_in_a_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--model", "m", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("gpu: ")


def point(**more: float) -> dict[str, float]:
    figures = {"iterations": 9, "median_ms": 7.123, "p99_ms": 8.0, "clock_mhz": 1980.0}
    return figures | {"sensor_w": 400.0, "counter_w": 390.0} | more


def test_the_page_has_every_point_and_keeps_what_stands_around(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\nTail\n")
    decode = {"1 x 200": point(plant_ms=7.0, plant_time_error=-0.0173, plant_w=410.0),
              "256 x 4000": {"skipped": "does not fit"}}  # fmt: skip
    write_page(page, {"about": ABOUT, "decode": decode, "prefill": {"128": point()}})
    text = page.read_text()
    assert text.startswith("# Head")
    assert text.endswith("Tail\n")
    assert "old" not in text
    assert "| 1 x 200 | 9 | 7.123 | - | 8 | 7 | -1.7 % |" in text
    assert "does not fit" in text
    assert "| 128 | 9 |" in text


def iteration(plant: PlantModel, load: Load, factor: float = 1.0) -> Iteration:
    return Iteration(load, factor * plant.latency_s(load, 1410))


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_the_error_of_the_plant_is_nothing_where_it_is_right(factor):
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    load = Load.decode(8, 8000)
    ran = [iteration(plant, load, factor)] * 10
    busy_s, idle_s = sum(one.latency_s for one in ran), 0.5
    energy_j = plant.power_w(load, 1410) * busy_s + plant.idle_power_w(1410) * idle_s
    reading = Reading(
        seconds=busy_s + idle_s,
        clock_mhz=1410.0,
        sensor_w=1.0,
        counter_w=energy_j / (busy_s + idle_s),
        samples=9,
    )
    found = of_plant(plant, ran, ran, reading)
    assert found["plant_time_error"] == pytest.approx(1 / factor - 1, abs=1e-4)
    assert found["plant_power_error"] == pytest.approx(0, abs=1e-4)
    assert of_plant(None, ran, ran, reading) == {}


def test_only_whole_batches_and_whole_prompts_are_of_a_point():
    decode = Point(phase=Phase.DECODE, requests=4, prompt_tokens=100, clock_mhz=1.0)
    prefill = Point(phase=Phase.PREFILL, requests=1, prompt_tokens=100, clock_mhz=1.0)
    loads = [
        Load.decode(4, 400),
        Load.decode(3, 300),
        Load.prefill([(100, 0)]),
        Load.prefill([(64, 0)]),
        Load(prefill_tokens=100, prefill_attended_pairs=5000, decode_requests=4),
    ]
    assert [is_of(decode, Iteration(load, 0.1)) for load in loads] == [True, *[False] * 4]
    assert [is_of(prefill, Iteration(load, 0.1)) for load in loads] == [
        False, False, True, False, False,
    ]  # fmt: skip


def test_toggled_hooks_are_compared_with_their_neighbours(tmp_path):
    log = tmp_path / "toggled.ns"
    rows = [[i % 2, 100 + 2 * (i % 2), 1000 + 10 * (i % 2), 16, 24] for i in range(9)]
    np.array(rows, np.int64).tofile(log)
    found = read_toggled(log, 24)
    assert found["blocks"] == 4
    assert found["wall_ratio"].startswith("0.990")
    assert found["cpu_ratio"].startswith("0.980")
    assert read_toggled(log, 8) == {"blocks": 0}


def test_toggled_batches_fit_into_what_a_server_reserves(tmp_path, monkeypatch):
    """A decode server keeps 512 tokens free for each request: more at once would never meet."""
    from benchmarks.gpu import load

    log, ran = tmp_path / "toggled.ns", []

    class Server:
        about = SimpleNamespace(limits=SimpleNamespace(max_tokens=7372, max_requests=32))

        def __init__(self, _url: str, decode_steps: int) -> None:
            self.steps = decode_steps

        def run(self, point: Point) -> None:
            ran.append(point.requests)
            block = [[on, 100, 1000, 16, point.requests] for on in (0, 1, 0, 1)]
            with log.open("ab") as file:
                np.array(block, np.int64).tofile(file)

    @contextlib.contextmanager
    def decode_only(environment):
        assert environment[load.TOGGLE_VARIABLE] == str(log)
        yield SimpleNamespace(url="http://127.0.0.1:1")

    monkeypatch.setattr(load, "SglangServer", Server)
    servers = SimpleNamespace(folder=tmp_path, decode_only=decode_only)
    settings = Settings(model="m", out=tmp_path, hold_s=1e-6)
    found = load.toggled(SimpleNamespace(servers=servers, settings=settings), log)
    assert set(ran) == {7372 // (48 + 512)}
    assert len(ran) >= 4
    assert found["blocks"] == 2 * len(ran) - 1
    assert found["wall_ratio"].startswith("1.000")


def test_iterations_under_load_meet_the_engines_own_record_of_the_same_load():
    """One that the engine did not tell has none, and those after it still find theirs."""
    plant = PlantModel(load_hardware("h200-sxm"), load_model("llama-3.1-8b"))
    decodes = [Load.decode(4, 400 + 4 * step) for step in range(5)]
    loads = [Load.prefill([(100, 0)]), *decodes]
    records = [SimpleNamespace(load=load, latency_s=0.011) for load in loads]
    told = [
        EngineTime(100, 0, 0.010, 0),
        *(EngineTime(0, 4, 0.010, d.decode_kv_tokens) for d in decodes),
    ]
    del told[3]
    found = beside(records, told, plant, [1980.0] * len(records))  # type: ignore[arg-type]
    assert (found["prefill"]["matched"], found["decode"]["matched"]) == (1, 4)
    assert found["decode"]["iterations"] == 5
    assert found["decode"]["over_engine"] == pytest.approx(0.1)
    expected = plant.latency_s(decodes[2], 1980) / 0.011 - 1
    assert found["decode"]["plant_time_error"] == pytest.approx(expected, abs=1e-3)
    assert "over_engine" not in beside(records, [], None, [math.nan] * 6)["decode"]  # type: ignore[arg-type]


def test_mixed_batches_that_a_gpu_recorded_are_predicted_better_than_by_their_mean():
    """Of a backend whose kernel for prompts takes long for decoding requests (docs/gpu.md)."""
    (path,) = MEASURED.glob("*mixed-chunks.npz")
    count, error_ms, of_mean_ms = errors_ms(path)["mixed"]
    assert count == 1481
    assert error_ms < 0.5 * of_mean_ms
