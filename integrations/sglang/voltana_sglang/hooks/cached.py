"""What of a waiting prompt the prefix cache holds, so that nobody will compute it.

SGLang matches waiting prompts with its cache before it forms a batch, but only under some policies
and caches. Where it did, it has noted the match on the request; elsewhere the share of recent
prompts that was found in the cache stands for it, as in SGLang's own ``/v1/loads``.
"""

from __future__ import annotations

from typing import Any

from voltana_ring.hooks.cached_share import CachedShare


class CachedTokens:
    """Tells for waiting requests how many of their tokens are cached.

    Args:
        scheduler: The scheduler.
    """

    __slots__ = ("_policy", "_recent", "_unfinished")

    def __init__(self, scheduler: Any) -> None:
        self._policy = getattr(scheduler, "policy", None)
        self._recent = CachedShare()
        self._unfinished: Any = None

    @property
    def share(self) -> float:
        """Of recent prompts' tokens those that were in the cache."""
        return self._recent.share

    def learn(self, batch: Any, unfinished: Any) -> None:
        """Note what of a prefill batch was cached.

        Args:
            batch: The batch.
            unfinished: Its request that further batches go on with; None if there is none.
        """
        decoding = len(batch.decoding_reqs) if batch.decoding_reqs else 0
        first = len(batch.reqs) - decoding
        rows = zip(batch.reqs[:first], batch.prefix_lens, batch.extend_lens, strict=False)
        found = seen = 0
        for request, old, new in rows:
            if request is self._unfinished:
                seen += new  # what lies before was computed by the batches before, not cached
            else:
                found += old
                seen += old + new
        self._recent.learn(found, seen)
        self._unfinished = unfinished

    def matched(self, waiting: Any) -> bool:
        """Whether the engine has looked all up, so that nothing noted means nothing cached."""
        tell = getattr(self._policy, "waiting_queue_prefix_matched", None)
        return bool(tell(waiting)) if callable(tell) else False

    def of(self, request: Any, size: int, *, matched: bool) -> int:
        """Cached tokens of a waiting request, at most all but one: one is always computed.

        Args:
            request: The request.
            size: Its tokens.
            matched: See `matched`.
        """
        known = noted(request)
        if known <= 0 and not matched:
            known = int(size * self.share)
        return max(0, min(known, size - 1))


def noted(request: Any) -> int:
    """The match that the engine has noted on a request; 0 for none."""
    known = getattr(request, "num_matched_prefix_tokens", None)
    if known is None:  # an older version
        indices = getattr(request, "prefix_indices", None)
        known = (0 if indices is None else len(indices)) + (
            getattr(request, "host_hit_length", 0) or 0
        )
    return int(known)
