"""What a request says of the beginning of its prompt, for routers that know who keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.serving.router.problem import Problem
from voltana.values import Prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "X-Voltana-Prefix"
"""``512:12,13,14``: tokens of a block, and a number for each block of the prompt."""

MOST_BLOCKS = 8192
MOST_BLOCK_TOKENS = 65_536
_LARGEST = 1 << 63
_LONGEST = 7500
"""Characters; a server that reads HTTP takes some 8,000 a header."""


def told_prefix(headers: Mapping[str, str]) -> Prefix | None:
    """The prefix that the headers of a request name; None where they name none.

    Raises:
        Problem: If the header is not of that form.
    """
    text = headers.get(HEADER, "").strip()
    if not text:
        return None
    size, _, blocks = text.partition(":")
    parts = [part.strip() for part in blocks.split(",")] if len(text) <= _LONGEST else []
    good = size.strip().isdecimal() and size.isascii() and len(size) <= len("65536")
    good = good and 1 <= int(size) <= MOST_BLOCK_TOKENS and 1 <= len(parts) <= MOST_BLOCKS
    if not good or not all(p.isascii() and p.isdecimal() and int(p) < _LARGEST for p in parts):
        raise Problem(
            400,
            f"{HEADER} = {text[:40]!r} is not allowed: must be the tokens of a block (1 to "
            f"{MOST_BLOCK_TOKENS}), a colon, and whole numbers below 2^63 separated by commas, at "
            f"most {_LONGEST} characters. Send it so, as in 512:12,13,14, or leave it out.",
            "bad_prefix",
        )
    return Prefix(tuple(map(int, parts)), int(size))
