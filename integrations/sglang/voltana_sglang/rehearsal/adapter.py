"""SGLang as `voltana rehearse` knows it: the port `voltana.rehearsal.port.Rehearsed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from voltana_sglang.config import SglangConfig
from voltana_sglang.rehearsal.arguments import VERSION, engine_options
from voltana_sglang.rehearsal.asked import GENERATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.config import Config

_DATA, _END = b"data: ", b"[DONE]"


class SglangRehearsal:
    """Speaks SGLang's dialect as a client does."""

    program = "voltana_sglang.rehearsal"
    path = GENERATE
    version = VERSION
    config: type[Config] = SglangConfig

    def engine_options(self, arguments: Sequence[str]) -> dict[str, Any]:
        """See `Rehearsed.engine_options`."""
        return engine_options(arguments)

    def stream_interval(self, tokens: int) -> tuple[str, ...]:
        """See `Rehearsed.stream_interval`."""
        return ("--stream-interval", str(tokens))

    def body(self, prompt_tokens: int, output_tokens: int) -> bytes:
        """See `Rehearsed.body`."""
        ids = b"1," * (prompt_tokens - 1) + b"1"
        asked = {"max_new_tokens": output_tokens, "ignore_eos": True, "temperature": 0.0}
        return (
            b'{"stream":true,"sampling_params":'
            + orjson.dumps(asked)
            + b',"input_ids":['
            + ids
            + b"]}"
        )

    def tokens(self, event: bytes) -> int:
        """See `Rehearsed.tokens`."""
        text = event.removeprefix(_DATA)
        if not event.startswith(_DATA) or text == _END:
            return 0
        answer = orjson.loads(text)
        if "error" in answer:
            raise ValueError(str(answer["error"]))
        meta = answer["meta_info"]
        reason = meta["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            raise ValueError(str(reason["message"]))
        return int(meta["completion_tokens"])
