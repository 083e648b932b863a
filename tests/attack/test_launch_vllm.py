"""``launch`` with vLLM: killed at each stage, refused a port or a model, robbed of an agent.

The command is the real one, and so are agents and router; the servers are processes as vLLM's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack.test_launch_kill import gone, mark, marked
from tests.clusters.launched import Engine, Launched

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mark"]

FAKE = Path(__file__).with_name("fake_engine")
PATIENCE_S = 120.0
HARDWARE = """
[engine]
hardware = "a100-sxm4-80gb"
model = "llama-3.1-8b"
"""
TABLES = f"""
[slo]
ttft_ms = 2000
itl_ms = 500
{HARDWARE}
[agent]
rings = "{{folder}}/rings"
state = "{{folder}}/state"
[router]
port = {{port}}
"""

VLLM = Engine(
    program="voltana_vllm", environment={}, launch={}, path="/v1/completions",
    body=lambda _: {}, tokens=lambda _: [], length=0,
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@contextlib.contextmanager
def launched(folder: Path, model: Path | str, mark: str, **more: Any) -> Iterator[Launched]:
    """One prefill and one decode server of vLLM, started by either command."""
    servers = {"engine": "vllm", "prefill": 1, "decode": 1, "gpus": [], "start_timeout_s": 100}
    tables = more.pop("tables", TABLES)
    path = os.pathsep.join(filter(None, (str(FAKE), os.environ.get("PYTHONPATH"))))
    own = {"MARK": mark, "PYTHONPATH": path}
    with Launched(
        VLLM, folder, Path(model), servers | more, tables, environment=own, flags=("--dry-run",)
    ) as made:
        yield made


def said(made: Launched, words: str) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while words not in made.said():
        assert made.process.poll() is None, made.said() + made.logged()
        assert time.monotonic() < ends_s, made.said() + made.logged()
        time.sleep(0.02)


def ended(made: Launched) -> str:
    """What a launch said that fails."""
    assert made.process.wait(PATIENCE_S) not in {0, -signal.SIGKILL}, made.said()
    return made.said()


STAGES = {
    "its servers start": "prefill-0    starting",
    "its agents start": "agent-decode-0 starting",
    "its router starts": "router       starting",
    "it serves": "launch       ready",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_launch_that_is_killed_while(tmp_path: Path, model: Path, mark: str, stage: str) -> None:
    with launched(tmp_path, model, mark) as made:
        said(made, STAGES[stage])
        if stage == "it serves":
            assert len(marked(mark)) >= 12  # with wardens, engine cores and workers
        made.process.kill()
        made.process.wait()
        assert gone(mark) == []


@pytest.mark.parametrize("offset", [0, 1, 100, 101, 50])
def test_a_port_that_is_taken_is_named_before_anything_starts(
    tmp_path: Path, model: Path, mark: str, offset: int
) -> None:
    """Those of both servers, of their transfers, and the router's."""
    with socket.socket() as taken:
        original = Launched.__init__

        def init(self: Launched, *arguments: Any, **options: Any) -> None:
            popen = made_by(self, taken, offset)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tests.clusters.launched.subprocess.Popen", popen)
                original(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Launched, "__init__", init)
            with launched(tmp_path, model, mark) as made:
                text = ended(made)
                assert (
                    f"port {made.first_port + offset}" in text
                    or str(made.first_port + offset) in text
                )
                assert "Traceback" not in text
                assert "starting" not in text
                assert gone(mark) == []


def made_by(made: Launched, taken: socket.socket, offset: int) -> Any:
    """Takes the port when it is known, and starts the launch then."""
    import subprocess

    popen = subprocess.Popen

    # As servers do it: ended connections of an earlier test may still be waited for there.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def start(*arguments: Any, **options: Any) -> Any:
        taken.bind(("127.0.0.1", made.first_port + offset))
        taken.listen()
        return popen(*arguments, **options)

    return start


def test_a_folder_that_is_no_model_is_told_by_the_servers_last_words(
    tmp_path: Path, mark: str
) -> None:
    with launched(tmp_path, tmp_path, mark) as made:
        text = ended(made)
        assert "prefill-0 ended by itself" in text or "decode-0 ended by itself" in text
        assert "is not a valid model identifier" in text
        assert "Traceback" not in text
        assert gone(mark) == []


def test_a_model_that_is_not_there_is_named_before_anything_starts(
    tmp_path: Path, mark: str
) -> None:
    with launched(tmp_path, tmp_path / "nowhere", mark) as made:
        text = ended(made)
        assert "launch.model_path" in text
        assert "nowhere" in text
        assert "starting" not in text


@pytest.mark.parametrize("on_exit", ["keep-serving", "shut-down"])
def test_an_agent_that_is_killed(tmp_path: Path, model: Path, mark: str, on_exit: str) -> None:
    with launched(tmp_path, model, mark, on_exit=on_exit) as made:
        said(made, "launch       ready")
        is_agent = {b"agent", b"decode-0"}
        agent = next(
            pid for pid in marked(mark)
            if is_agent <= set((line := Path(f"/proc/{pid}/cmdline").read_bytes()).split(b"\0"))
            and b"warden" not in line
        )  # fmt: skip
        os.kill(agent, signal.SIGKILL)
        if on_exit == "shut-down":
            assert "agent-decode-0 ended by itself" in ended(made)
        else:
            said(made, "agent-decode-0 ready again")
            made.process.terminate()
            assert made.process.wait(PATIENCE_S) == 0
        assert gone(mark) == []


def test_clocks_that_nobody_can_tell_are_asked_for_before_anything_starts(
    tmp_path: Path, model: Path, mark: str
) -> None:
    """Agents refused it, when servers had loaded their models."""
    tables = TABLES.replace(HARDWARE, "")
    with launched(tmp_path, model, mark, tables=tables) as made:
        text = ended(made)
        assert "engine.table_mhz" in text
        assert "name engine.hardware and engine.model, or list" in text
        assert "starting" not in text


def test_an_agent_that_never_starts_ends_the_launch_and_its_servers(
    tmp_path: Path, model: Path, mark: str
) -> None:
    tables = TABLES.replace("[agent]\n", '[agent]\ninterpreter = ["/bin/false"]\n')
    with launched(tmp_path, model, mark, tables=tables) as made:
        assert "agent-prefill-0 ended by itself (exit status 1)" in ended(made)
        assert gone(mark) == []
