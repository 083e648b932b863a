"""What an iteration computes, read from SGLang's batch before it runs."""

from __future__ import annotations

from typing import Any

from voltana_ring.layout import Mode

DECODE_MODES = frozenset({"DECODE", "TARGET_VERIFY"})
PREFILL_MODES = frozenset({"EXTEND", "MIXED", "DLLM_EXTEND"})
"""Names of SGLang's forward modes. A split prefill is launched in parts and not measured."""


class BatchView:
    """Reads batches; counts the KV tokens of an unchanged decode batch incrementally.

    Args:
        speculative: Whether an iteration may add more than one token a request; it is then always
            summed.

    Attributes:
        mode: What the last batch computes.
        prefill_tokens: Its new tokens.
        attended_pairs: Their query-key pairs.
        decode_requests: Its decoding requests.
        kv_tokens: Tokens in their caches, the one that is computed now included.
        changed: Whether other requests are in it than in the one before.
    """

    __slots__ = (
        "_kv_tokens",
        "_reqs",
        "_speculative",
        "attended_pairs",
        "changed",
        "decode_requests",
        "kv_tokens",
        "mode",
        "prefill_tokens",
    )

    def __init__(self, *, speculative: bool) -> None:
        self._speculative = speculative
        self._reqs: Any = None
        self._kv_tokens = 0
        self.mode = Mode.IDLE
        self.prefill_tokens = 0
        self.attended_pairs = 0.0
        self.decode_requests = 0
        self.kv_tokens = 0
        self.changed = True

    def read_decode(self, batch: Any) -> None:
        """Read a decode batch."""
        reqs = batch.reqs
        size = len(reqs)
        # Older versions merge into the list that they have.
        self.changed = reqs is not self._reqs or size != self.decode_requests
        if not self.changed and not self._speculative:
            self._kv_tokens += size
        else:
            self._reqs = reqs
            self._kv_tokens = self._sum(batch)
        self.mode = Mode.DECODE
        self.prefill_tokens = 0
        self.attended_pairs = 0.0
        self.decode_requests = size
        self.kv_tokens = self._kv_tokens

    def read_prefill(self, batch: Any) -> None:
        """Read a prefill batch, or one that also decodes."""
        reqs, news, olds = batch.reqs, batch.extend_lens, batch.prefix_lens
        decoding = len(batch.decoding_reqs) if batch.decoding_reqs else 0
        first = len(reqs) - decoding
        tokens, pairs = 0, 0.0
        for new, old in zip(news[:first], olds[:first], strict=False):
            tokens += new
            pairs += new * old + new * (new + 1) / 2
        self.prefill_tokens = tokens
        self.attended_pairs = pairs
        self.decode_requests = decoding
        self.kv_tokens = sum(olds[first:]) + decoding
        if decoding:
            self.mode = Mode.MIXED if tokens else Mode.DECODE
        else:
            self.mode = Mode.PREFILL
        self.forget()

    def forget(self) -> None:
        """Let go of the last batch: its requests may have ended."""
        self._reqs = None

    @staticmethod
    def _sum(batch: Any) -> int:
        lengths = batch.seq_lens_cpu
        if lengths is None:  # resolved inside run_batch: count what the requests know
            return sum(int(request.seqlen) for request in batch.reqs)
        return int(sum(lengths.tolist()))
