"""Real vLLM servers on a CPU, as processes of the tests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[4]

PYTHON = os.environ.get("VOLTANA_TEST_VLLM_PYTHON") or str(
    ROOT / ".venv-vllm" / os.environ.get("VLLM_VERSION", "0.32.0") / "bin" / "python"
)
"""Of the environment that has vLLM; the tests themselves run in the main one."""

START_TIMEOUT_S = 1500.0
"""Beside other work a start takes many minutes."""

STOP_TIMEOUT_S = 60.0

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "UCX_TLS": "tcp,self",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
}

ARGUMENTS = (
    "--skip-tokenizer-init", "--max-model-len", "1024",
    "--max-num-seqs", "64", "--enforce-eager", "--enable-logging-iteration-details",
)  # fmt: skip


def transfer(role: str, lease_s: int = 30) -> tuple[str, ...]:
    """Arguments of a server of a pair, which transfers KV caches over TCP."""
    return (
        "--kv-transfer-config",
        json.dumps(
            {
                "kv_connector": "NixlConnector",
                "kv_role": role,
                "kv_buffer_device": "cpu",
                "kv_connector_extra_config": {"kv_lease_duration": lease_s},
            }
        ),
    )


class VllmServer:
    """One server; a context manager that ends it with all its processes.

    Args:
        model: Folder of the model.
        port: Where it listens; its side channel for KV caches is 1,000 above.
        log: Where it writes.
        arguments: On top of `ARGUMENTS`.
        environment: On top of `ENVIRONMENT`.
        watched: Whether its hooks are those of `watched_server`.
    """

    def __init__(
        self,
        model: Path,
        port: int,
        log: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        watched: bool = False,
    ) -> None:
        self.name = ""
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        own = ENVIRONMENT | {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(port + 1000)}
        program = ["-m", "vllm.entrypoints.openai.api_server"]
        if watched:
            program = [str(Path(__file__).with_name("watched_server.py"))]
        command = [PYTHON, *program]
        command += ["--model", str(model), "--served-model-name", "tiny"]
        command += ["--host", "127.0.0.1", "--port", str(port), *ARGUMENTS, *arguments]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | own | dict(environment or {}),
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it serves, and warm it up.

        A decode server whose very first pass is a single token dies in the attention kernel of the
        CPU; an ordinary prompt first prevents it.
        """
        ends_s = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < ends_s, self.tail()
            time.sleep(0.5)
        self.complete(prompt_of(200), 5)

    def complete(self, prompt: list[int], tokens: int, **more: Any) -> Any:
        """The answer to a prompt of token ids, decoded greedily."""
        return ask(self.url + "/v1/completions", greedy(prompt, tokens, **more))

    def text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of its log."""
        return self.text()[-6000:]

    def engine_cpu_s(self) -> float:
        """CPU time that its engine core and workers took so far: all but the process that answers.

        It waits for nobody, so that other work of the machine is not in it.
        """
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # one that has ended meanwhile
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid != int(path.parent.name):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it; may be called twice."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def make_model(folder: Path) -> Path:
    """A model with weights of its own in `folder`."""
    program = Path(__file__).with_name("make_model.py")
    subprocess.run([PYTHON, str(program), str(folder)], check=True, capture_output=True)
    return folder


def greedy(prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    """A request of which every token is given and told by its number."""
    return {
        "model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, "detokenize": False, "return_token_ids": True,
    } | more  # fmt: skip


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """A prompt of random tokens."""
    rng = random.Random(1000 * seed + length)
    return [rng.randrange(5, 500) for _ in range(length)]


def ask(url: str, body: Any = None, *, timeout_s: float = 300.0) -> Any:
    """The JSON that an address answers with; its text where it is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        raw = reply.read()
    return json.loads(raw) if raw[:1] in {b"{", b"["} else raw.decode()
