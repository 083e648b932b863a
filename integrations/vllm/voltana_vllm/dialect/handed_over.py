"""What a prefill server hands over: how a decode server fetches the KV cache of a prompt.

It stands in an answer that a client can make as long as it likes, by asking for log-probabilities
of its prompt, so that a long one is not read as a whole.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

KEY = b'"kv_transfer_params":'
"""Within a text its quotes are escaped."""

READ_WHOLE = 1 << 18
"""A longer answer is read from that key on, for so many bytes at most."""

_READER = json.JSONDecoder()


def handed_over(answer: bytes) -> dict[str, Any] | None:
    """What a decode server is to be told; None if that is nothing, or cannot be passed on.

    Args:
        answer: The prefill server's.
    """
    try:
        params = _in_short(answer) if len(answer) <= READ_WHOLE else _in_long(answer)
        if not isinstance(params, dict) or not params:
            return None
        orjson.dumps(params)  # it is read 1,024 deep, and written 254
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return params


def _in_short(answer: bytes) -> Any:
    return orjson.loads(answer).get("kv_transfer_params")


def _in_long(answer: bytes) -> Any:
    at = answer.rfind(KEY)
    if at < 0:
        return None
    at += len(KEY)
    text = answer[at : at + READ_WHOLE].decode("utf-8", "replace").lstrip()
    return _READER.raw_decode(text)[0]
