"""The arguments of ``sglang.launch_server`` that mean something to a virtual one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from voltana_sglang.dialect.settings import DEFAULT_BOOTSTRAP_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "rehearsal"
"""Of the engine, in its ring: nothing that was learned of it is taken for a real engine's."""

OPTIONS = {
    "chunked_prefill_size": "max_prefill_tokens",
    "max_running_requests": "max_running_requests",
    "mem_fraction_static": "memory_fraction",
    "num_reserved_decode_tokens": "reserved_decode_tokens",
}
"""SGLang's arguments, and what the plant's engine calls them."""


def parser() -> argparse.ArgumentParser:
    """Reads them; what SGLang knows beside them changes nothing here, and is let through."""
    made = argparse.ArgumentParser(prog="sglang.launch_server", allow_abbrev=False)
    made.add_argument("--model-path", required=True)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=30000)
    made.add_argument("--disaggregation-mode", default="null")
    made.add_argument("--disaggregation-bootstrap-port", type=int, default=DEFAULT_BOOTSTRAP_PORT)
    made.add_argument("--chunked-prefill-size", type=int)
    made.add_argument("--max-running-requests", type=int)
    made.add_argument("--mem-fraction-static", type=float)
    made.add_argument("--num-reserved-decode-tokens", type=int)
    made.add_argument("--stream-interval", type=int, default=1)
    made.add_argument("--api-key")
    made.add_argument("--admin-api-key")
    return made


def engine_options(arguments: Sequence[str]) -> dict[str, Any]:
    """What arguments of a server change of the plant's engine, as `EngineOptions` calls it."""
    found, _ = parser().parse_known_args(["--model-path", "", *arguments])
    return {
        ours: value
        for theirs, ours in OPTIONS.items()
        if (value := getattr(found, theirs)) is not None
    }
