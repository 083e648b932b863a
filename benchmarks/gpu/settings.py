"""What is measured, from the command line; and the configuration that servers and agent share."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError, invalid
from voltana.plant import load_hardware
from voltana.plant.model import ModelProfile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.hardware import HardwareProfile

CONTEXTS = (200, 1000, 4000)
BATCHES = (1, 8, 32, 64, 96, 127, 128, 129, 160, 192, 256)
"""Around the steps of 64 and 128 rows, at which kernels take another tile."""

PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
STEPS = ("board", "decode", "prefill", "load", "toggled")
"""What a run consists of, in its order."""

PROMPT_TOKENS = 256
"""Of a request under load."""

FIRST_PORT = 31700
ROUTER_OFFSET = 400

BOARDS = (
    (r"\bH200(?!.*NVL)", "h200-sxm"),
    (r"\bH100(?!.*(NVL|PCIE|96GB))", "h100-sxm"),
    (r"\bA100-SXM4-80GB", "a100-sxm4-80gb"),
    (r"\bA100-SXM4-40GB", "a100-sxm4-40gb"),
    (r"\bA100-PCIE-40GB", "a100-pcie-40gb"),
)
"""Hardware profiles by a board's name; variants with other memory or limits have none."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run.

    Attributes:
        model: Folder of the model, or its name on the Hugging Face Hub.
        out: Folder for results, logs and the configuration.
        page: Page that the figures go into; None takes ``gpu.md`` in that folder.
        gpus: GPUs of the server, as this process counts them.
        hardware: Hardware profile to compare with; empty goes by the board's name.
        batches: Decode batches.
        contexts: Tokens of each of their requests.
        prompts: Lengths of the prompts of prefill.
        hold_s: How long each point is held.
        idle_s: How long the idle board is watched.
        load_s: How long Poisson requests arrive.
        rate_rps: Their rate.
        prompt_tokens: Tokens of each of their prompts.
        steps: Which of `STEPS` are measured.
        first_port: Of the servers.
        arguments: Further arguments of the engine.
        decode_arguments: Further ones of the server that only decodes.
        environment: Further variables of the engine.
        start_timeout_s: How long a server may take to start.
        engine_times: Whether the engine's own times are asked for and held beside the plugin's.
        sensor: What the agent measures the engine by, as in `engine.sensor`.
        kv_capacity_tokens: Of the server, which a sensor without a plugin does not tell.
    """

    model: str
    out: Path
    page: Path | None = None
    gpus: tuple[int, ...] = (0,)
    hardware: str = ""
    batches: tuple[int, ...] = BATCHES
    contexts: tuple[int, ...] = CONTEXTS
    prompts: tuple[int, ...] = PROMPTS
    hold_s: float = 5.0
    idle_s: float = 20.0
    load_s: float = 180.0
    rate_rps: float = 4.0
    prompt_tokens: int = PROMPT_TOKENS
    steps: tuple[str, ...] = STEPS
    first_port: int = FIRST_PORT
    arguments: tuple[str, ...] = ()
    decode_arguments: tuple[str, ...] = ("--disaggregation-transfer-backend", "fake")
    environment: tuple[tuple[str, str], ...] = ()
    start_timeout_s: float = 900.0
    engine_times: bool = False
    sensor: str = "ring"
    kv_capacity_tokens: int = 100_000

    def about(self, board: str, driver: str) -> dict[str, Any]:
        """What tells a run from another: one that is taken up again has to agree in all of it."""
        return {
            "board": board,
            "boards": len(self.gpus),
            "driver": driver,
            "model": self.model,
            "arguments": " ".join(self.arguments),
            "hold_s": self.hold_s,
            "engine_times": self.engine_times,
        }

    def configuration(self, instance: str = "", address: str = "", *further: str) -> str:
        """The configuration file of servers and agent: a dry run, so that no clock is touched.

        Args:
            instance: Name of the server, where the agent does without the plugin.
            address: Where its messages come from.
            further: Arguments of the engine after those of the command line.
        """
        launch = {
            "model_path": self.model,
            "unified": 1,
            "tensor_parallel": len(self.gpus),
            "gpus": list(self.gpus),
            "first_port": self.first_port,
            "arguments": [*self.arguments, *further],
            "decode_arguments": list(self.decode_arguments),
            "start_timeout_s": self.start_timeout_s,
        }
        tables = {
            "launch": launch,
            "launch.environment": dict(self.environment),
            "agent": {"rings": "rings", "state": "state"},
            "actuator": {"kind": "dry-run"},
            "router": {"port": self.first_port + ROUTER_OFFSET},
        }
        if self.sensor != "ring":
            tables["engine"] = {
                "sensor": self.sensor,
                "kv_capacity_tokens": self.kv_capacity_tokens,
            }
            tables["[instance]"] = {
                "name": instance,
                "role": "unified",
                "gpus": list(self.gpus),
                "forward_pass_metrics": [address],
            }
        return "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in table.items())
            for name, table in tables.items()
        )


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line.

    Raises:
        ConfigError: If a value is outside its range.
    """
    given = _parser().parse_args(arguments)
    _check(given)
    return Settings(
        model=given.model,
        out=given.out,
        page=given.page,
        gpus=_numbers("--gpus", given.gpus, 0),
        hardware=given.hardware,
        batches=_numbers("--batches", given.batches, 1),
        contexts=_numbers("--contexts", given.contexts, 1),
        prompts=_numbers("--prompts", given.prompts, 1),
        hold_s=given.hold_s,
        idle_s=given.idle_s,
        load_s=given.load_s,
        rate_rps=given.rate,
        prompt_tokens=given.prompt_tokens,
        steps=tuple(given.steps.split(",")),
        first_port=given.first_port,
        arguments=tuple(_split("--engine-arguments", given.engine_arguments)),
        decode_arguments=tuple(_split("--decode-arguments", given.decode_arguments)),
        environment=_variables(given.engine_environment),
        engine_times=given.engine_times,
        sensor=given.sensor,
        kv_capacity_tokens=given.kv_capacity,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Measures a GPU under SGLang, and changes none of its settings.",
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of the model, or its name on the Hub")
    add("--out", type=Path, default=Path("out/gpu"), help="folder of results and logs")
    add("--page", type=Path, help="page that the figures go into; default: gpu.md in --out")
    add("--gpus", default="0", help="GPUs of the server, such as 0,1; several: tensor parallelism")
    add("--hardware", default="", help="profile to compare with; by default by the board's name")
    add("--batches", default=_words(BATCHES), help="decode batches")
    add("--contexts", default=_words(CONTEXTS), help="tokens of each of their requests")
    add("--prompts", default=_words(PROMPTS), help="prompt lengths of prefill")
    add("--hold-s", type=float, default=5.0, help="time at each point")
    add("--idle-s", type=float, default=20.0, help="time for which the idle board is watched")
    add("--load-s", type=float, default=180.0, help="time for which requests arrive")
    add("--rate", type=float, default=4.0, help="requests/s")
    add("--prompt-tokens", type=int, default=PROMPT_TOKENS, help="of each of these requests")
    add("--steps", default=",".join(STEPS), help="what is measured, some of the default's")
    add("--first-port", type=int, default=FIRST_PORT)
    add("--engine-arguments", default="", help="of every server, as one word")
    add("--decode-arguments", default="--disaggregation-transfer-backend fake")
    add(
        "--engine-times",
        action="store_true",
        help="hold SGLang's own forward-pass metrics (CUDA events) beside the plugin's times",
    )
    add(
        "--sensor",
        choices=("ring", "forward-pass-metrics"),
        default="ring",
        help="what the agent measures by; the latter needs --engine-times",
    )
    add("--kv-capacity", type=int, default=100_000, help="tokens of the server, for that sensor")
    add("--engine-environment", default="", help="NAME=VALUE of every server, as one word")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Refuse values outside their ranges.

    Raises:
        ConfigError: For the first of them.
    """
    for name in ("hold_s", "idle_s", "load_s", "rate"):
        value = getattr(given, name)
        if not 0 < value < math.inf:
            option = "--" + name.replace("_", "-")
            raise invalid(option, value, "above 0 and finite", "Leave it out for the default.")
    if not 1 <= given.first_port <= 65_000:
        raise invalid("--first-port", given.first_port, "1 to 65000", f"{FIRST_PORT} is usual.")
    if given.prompt_tokens < 1:
        raise invalid("--prompt-tokens", given.prompt_tokens, "1 or more", "256 is usual.")
    if given.sensor != "ring" and not given.engine_times:
        raise invalid("--sensor", given.sensor, "ring", "Or give --engine-times as well.")
    if not set(given.steps.split(",")) <= set(STEPS):
        raise invalid("--steps", given.steps, f"of {','.join(STEPS)}", "Leave it out for all.")


def profile_of(settings: Settings, board: str) -> HardwareProfile | None:
    """The hardware profile to compare with; None where the board has none.

    Raises:
        VoltanaError: If one was asked for that is not there.
    """
    if settings.hardware:
        return load_hardware(settings.hardware)
    words = board.replace(" ", "-").upper()
    if "-MIG-" in words:
        return None
    return next((load_hardware(name) for part, name in BOARDS if re.search(part, words)), None)


def model_of(settings: Settings) -> ModelProfile | None:
    """The model as the plant knows it; None where its configuration is absent or not modelled."""
    config = Path(settings.model) / "config.json"
    try:
        return ModelProfile.from_hf_config(config) if config.is_file() else None
    except ConfigError:
        return None


def _words(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least or len(set(numbers)) < len(numbers):
        raise invalid(
            option, text, f"different whole numbers from {least}", "Separate them by commas."
        )
    return numbers


def _split(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise invalid(option, text, f"words of a shell ({error})", "Close its quotes.") from None


def _variables(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [word.partition("=") for word in _split("--engine-environment", text)]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise invalid("--engine-environment", text, "NAME=VALUE words", "Quote it as one word.")
    return tuple((name, value) for name, _, value in pairs)
