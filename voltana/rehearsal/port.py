"""What a rehearsal must know of an engine's dialect, and where the dialects are."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from voltana.errors import MissingExtraError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.config import Config

DIALECTS = {"sglang": "voltana_sglang.rehearsal.adapter:SglangRehearsal"}
"""Engines, and where the integration of each keeps its `Rehearsed`."""


class Rehearsed(Protocol):
    """An engine's dialect, as whoever rehearses speaks it.

    Attributes:
        program: Module with the command ``launch``, which starts virtual servers.
        path: Where requests are sent.
        version: What virtual servers say that they are: nothing that was learned of them is taken
            for a real engine's.
        config: What the configuration file may hold.
    """

    program: str
    path: str
    version: str
    config: type[Config]

    def engine_options(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Fields of `voltana.plant.cluster.EngineOptions` that a server's arguments set."""
        ...

    def stream_interval(self, tokens: int) -> tuple[str, ...]:
        """Arguments by which a server tells its streams of so many tokens at a time."""
        ...

    def body(self, prompt_tokens: int, output_tokens: int) -> bytes:
        """A request whose answer is a stream of just so many tokens."""
        ...

    def tokens(self, event: bytes) -> int:
        """Tokens of the answer by an event of its stream; 0 where the event tells none.

        Raises:
            ValueError: If the event tells that the request failed; the text is why.
        """
        ...


def find_dialect(engine: str) -> Rehearsed:
    """The dialect of an engine.

    Raises:
        UnknownNameError: If there is none of that name.
        MissingExtraError: If its integration is not installed.
    """
    if engine not in DIALECTS:
        raise unknown_name("engine", engine, list(DIALECTS))
    module, _, name = DIALECTS[engine].partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise MissingExtraError(
            f"a rehearsal of {engine} needs {error.name or package}, not installed here. "
            f"Run: pip install '{package}[rehearsal]'",
            name=error.name,
        ) from None
    made: Rehearsed = found()
    return made
