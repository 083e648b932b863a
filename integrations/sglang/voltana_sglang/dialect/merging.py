"""Merges long log-probabilities apart from what is served, in a process of their own.

A client decides how long they are: 100,000 tokens of a prompt with twenty alternatives each take
60 MB, which reading and writing JSON would hold everybody else up for most of a second.

Run as ``python -m voltana_sglang.dialect.merging``, with two lengths and two answers as its input.
"""

from __future__ import annotations

import asyncio
import struct
import sys

from voltana.serving.router import helper_process
from voltana.serving.router.problem import Problem
from voltana.serving.router.sending import PIECE
from voltana_sglang.dialect.logprobs import merge_answers

AT_ONCE = 1 << 18
"""Bytes of both answers that are merged where they are, in a few milliseconds."""

IN_A_STREAM = 1 << 18
"""Bytes that each event of a stream is merged with, at most."""

MEMORY = 4 << 30

_SIZES = struct.Struct("!QQ")


class Merging:
    """Merges answers, long ones one at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def merged(self, prefill: bytes, decode: bytes) -> bytes:
        """See `merge_answers`.

        Raises:
            Problem: If they are too long.
        """
        if len(prefill) + len(decode) <= AT_ONCE:
            return merge_answers(prefill, decode)
        async with self._turn:
            return await _apart(prefill, decode)


def check_stream(prefill: bytes) -> None:
    """Check that events can be merged with what the prefill server sent.

    Raises:
        Problem: If that is too long.
    """
    if len(prefill) > IN_A_STREAM:
        raise Problem(
            400,
            f"the log-probabilities of the prompt take {len(prefill)} bytes in each event: must be "
            f"at most {IN_A_STREAM} in a stream. Ask for fewer (top_logprobs_num, "
            "logprob_start_len), or without stream.",
            "logprobs_too_long",
        )


async def _apart(prefill: bytes, decode: bytes) -> bytes:
    process = await helper_process.start("voltana_sglang.dialect.merging")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for part in (_SIZES.pack(len(prefill), len(decode)), prefill, decode):
            await helper_process.send(process, part)
        process.stdin.close()
        made = bytearray()
        while piece := await process.stdout.read(PIECE):
            made += piece
        ended_well = await process.wait() == 0
    except helper_process.BROKEN:  # it died of what it was given
        ended_well = False
    finally:
        await helper_process.end(process)
    if not ended_well:
        raise Problem(
            413,
            f"the log-probabilities of the prompt take {len(prefill)} bytes, and could not be put "
            "into the answer. Ask for fewer (top_logprobs_num, logprob_start_len).",
            "logprobs_too_long",
        )
    return bytes(made)


def main() -> None:
    """The process of its own."""
    helper_process.be_modest(MEMORY)
    source = sys.stdin.buffer
    first, second = _SIZES.unpack(source.read(_SIZES.size))
    prefill, decode = source.read(first), source.read(second)
    sys.stdout.buffer.write(merge_answers(prefill, decode))


if __name__ == "__main__":
    main()
