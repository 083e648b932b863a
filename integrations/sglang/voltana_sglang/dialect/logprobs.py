"""Puts the log-probabilities of a prompt, which only the prefill server knows, into the answer.

Only ``/generate`` needs it: its ``meta_info`` lists them. The decode server has none of its own, or
those of positions that it recomputed, so the lists are joined.
"""

from __future__ import annotations

from typing import Any

import orjson

from voltana.serving.router.events import EVENT_END, Events

KEYS = ("input_token_logprobs", "input_top_logprobs", "input_token_ids_logprobs")
_PREFIX = b"data:"
_DONE = b"[DONE]"


def merge_answers(prefill: bytes, decode: bytes) -> bytes:
    """The decode server's answer with the prompt's log-probabilities, batches included.

    Args:
        prefill: The prefill server's answer, JSON.
        decode: The decode server's.
    """
    try:
        first, second = orjson.loads(prefill), orjson.loads(decode)
    except orjson.JSONDecodeError:
        return decode
    for source, target in zip(_as_list(first), _as_list(second), strict=False):
        _merge(source, target)
    return orjson.dumps(second)


class StreamMerge:
    """The same for a stream: into every event, as one server for both phases sends them.

    Args:
        prefill: All that the prefill server streamed.
    """

    def __init__(self, prefill: bytes) -> None:
        self._by_index: dict[int, Any] = {}
        for event in prefill.split(EVENT_END):
            payload = payload_of(event)
            if isinstance(payload, dict) and "meta_info" in payload:
                self._by_index.setdefault(payload.get("index", 0), payload)
        self._events = Events()

    @property
    def waiting(self) -> int:
        """Bytes that are kept, of an event that is not complete."""
        return self._events.waiting

    def feed(self, chunk: bytes) -> bytes:
        """Events that `chunk` completes, merged; the rest is kept for the next one."""
        *events, _ = self._events.feed(chunk).split(EVENT_END)
        return b"".join(self._event(event) + EVENT_END for event in events)

    def close(self) -> bytes:
        """What is left at the end of the stream."""
        return self._events.close()

    def _event(self, event: bytes) -> bytes:
        payload = payload_of(event)
        if not isinstance(payload, dict):
            return event
        source = self._by_index.get(payload.get("index", 0))
        if source is None:
            return event
        _merge(source, payload)
        return b"data: " + orjson.dumps(payload)


def payload_of(event: bytes) -> Any:
    """The JSON value of one event of a stream; None if it has none."""
    lines = event.split(b"\n")
    data = next((line[len(_PREFIX) :].strip() for line in lines if line.startswith(_PREFIX)), _DONE)
    if data == _DONE:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _merge(source: Any, target: Any) -> None:
    if not (isinstance(source, dict) and isinstance(target, dict)):
        return
    known, meta = source.get("meta_info"), target.get("meta_info")
    if not (isinstance(known, dict) and isinstance(meta, dict)):
        return
    for key in KEYS:
        if isinstance(known.get(key), list):
            meta[key] = known[key] + (meta.get(key) or [])


def _as_list(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]
