"""Length of a prompt in tokens before it is tokenised, for planning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.serving.engine import Call

FIRST_GUESS = 4.0
"""Bytes of English text a token, before anything was measured."""

LEAST_BYTES, MOST_BYTES = 1.0, 16.0
"""Bounds of what a token of text may be believed to take.

Tokenizers fall back to bytes and not below; what seems longer than 16 bytes was not tokenised.
"""

FIRST_PICTURE = 1000.0
"""Tokens of a picture, before any was measured: those of a photograph in most models of today."""

MOST_PICTURE = 100_000.0
"""Of what a picture may be believed to take."""

_REPORTED = re.compile(rb'"prompt_tokens":\s{0,9}(\d{1,9})\b')
_EDGE = 1 << 16
"""Bytes at both ends of an answer in which it is looked for: megabytes of log-probabilities, or of
what a server sends instead, are not gone through."""


class PromptLength:
    """Learns from what servers report how many bytes make a token, and how many tokens a picture.

    A ratio of decaying sums: long prompts count by their length, and a change of language or of
    tokenizer is followed within about a hundred requests. Text is learned from prompts of text
    alone; what is beyond the text of prompts with pictures is theirs. Prompts with parts that were
    not counted teach nothing.

    Args:
        keep: Weight that each further answer leaves to the past.
    """

    def __init__(self, keep: float = 0.99) -> None:
        self._keep = keep
        self._bytes = FIRST_GUESS * 100.0
        self._tokens = 100.0
        self._pictures = 1.0
        self._picture_tokens = FIRST_PICTURE

    @property
    def bytes_per_token(self) -> float:
        """What is believed now."""
        return self._bytes / self._tokens

    @property
    def tokens_per_picture(self) -> float:
        """Likewise."""
        return self._picture_tokens / self._pictures

    def estimate(self, call: Call) -> int:
        """Tokens of all prompts of a request, at least 1."""
        size = call.size
        text = size.text_bytes / self.bytes_per_token if size.tokens < 0 else size.tokens
        return max(1, round(text + size.pictures * self.tokens_per_picture))

    def learn(self, call: Call, answer: bytes) -> None:
        """Compare a request with the length in its answer; nothing happens where none is."""
        size = call.size
        if call.batch is not None or not size.whole:
            return
        if not size.pictures and (size.tokens >= 0 or not size.text_bytes):
            return
        # Usage stands at the end of an answer, or at its beginning, engine by engine.
        found = _REPORTED.search(answer[:_EDGE]) or _REPORTED.search(answer[-_EDGE:])
        if found is None or not (tokens := int(found[1])):
            return
        if size.pictures:
            text = size.text_bytes / self.bytes_per_token if size.tokens < 0 else size.tokens
            self._pictures = self._keep * self._pictures + size.pictures
            theirs = min(max(0.0, tokens - text), MOST_PICTURE * size.pictures)
            self._picture_tokens = self._keep * self._picture_tokens + theirs
            return
        # A template around a short text must not be taken for short tokens.
        bounded = min(max(tokens, size.text_bytes / MOST_BYTES), size.text_bytes / LEAST_BYTES)
        self._bytes = self._keep * self._bytes + size.text_bytes
        self._tokens = self._keep * self._tokens + bounded
