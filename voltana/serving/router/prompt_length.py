"""Length of a prompt in tokens before it is tokenised, for planning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.serving.router.call import Call

FIRST_GUESS = 4.0
"""Bytes of English text a token, before anything was measured."""

_REPORTED = re.compile(rb'"prompt_tokens":\s*(\d+)')


class PromptLength:
    """Learns how many bytes make a token from what servers report.

    A ratio of decaying sums: long prompts count by their length, and a change of language or of
    tokenizer is followed within about a hundred requests.

    Args:
        keep: Weight that each further answer leaves to the past.
    """

    def __init__(self, keep: float = 0.99) -> None:
        self._keep = keep
        self._bytes = FIRST_GUESS * 100.0
        self._tokens = 100.0

    @property
    def bytes_per_token(self) -> float:
        """What is believed now."""
        return self._bytes / self._tokens

    def estimate(self, call: Call) -> int:
        """Tokens of all prompts of a request, at least 1."""
        if call.prompt_tokens >= 0:
            return max(1, call.prompt_tokens)
        return max(1, round(call.prompt_bytes / self.bytes_per_token))

    def learn(self, call: Call, answer: bytes) -> None:
        """Compare a request with the length in its answer; nothing happens where none is."""
        if call.prompt_tokens >= 0 or call.prompt_bytes == 0 or call.batch is not None:
            return
        # Usage stands at the end of an OpenAI answer, meta_info in a /generate one: both are
        # found without parsing megabytes of log-probabilities.
        found = _REPORTED.search(answer)
        if found is None or not (tokens := int(found[1])):
            return
        self._bytes = self._keep * self._bytes + call.prompt_bytes
        self._tokens = self._keep * self._tokens + tokens
