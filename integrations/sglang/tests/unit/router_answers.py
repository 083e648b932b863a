"""Answers of a router: whole and right, or one clear error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fake_sglang import words_of

if TYPE_CHECKING:
    from router_cluster import Cluster

EXPECTED = " ".join(words_of("a"))


def run(body: Any, limit_s: float = 60.0) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await body()

    asyncio.run(limited())


def completed(answer: tuple[int, Any, Any], *, stream: bool) -> bool:
    """Whole and right; the only alternative is a clear error, exactly one."""
    status, body, _ = answer
    if status != 200:
        assert has_error(body), body
        return False
    if not stream:
        assert body["text"] == EXPECTED
        return True
    errors = [event for event in body if has_error(event)]
    assert body[-1] == "[DONE]"
    if errors:
        assert len(errors) == 1
        assert body[-2] == errors[0]
        return False
    assert body[-2]["text"] == EXPECTED
    return True


def has_error(body: Any) -> bool:
    """OpenAI's format, or SGLang's own, with words in it."""
    if not isinstance(body, dict):
        return False
    error = body.get("error")
    return bool((error or {}).get("message")) or body.get("object") == "error"


async def ask(pd: Cluster, *, stream: bool = False) -> tuple[int, Any, Any]:
    return await pd.post("/generate", {"text": "a", "stream": stream})
