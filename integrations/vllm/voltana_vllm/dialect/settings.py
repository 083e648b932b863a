"""The table ``[router]`` in front of vLLM servers."""

from __future__ import annotations

from pydantic import Field

from voltana.serving.router.settings import RouterTable
from voltana.validation import NotNegative, Positive  # noqa: TC001  (pydantic reads it)

POLL_S = 0.5
LEASE_S = 30.0
"""VLLM's own ``kv_lease_duration``."""


class VllmRouterTable(RouterTable):
    """The router; servers without a feed are asked for ``/metrics``, which is long.

    Attributes:
        loads_period_s: Time between two polls.
        kv_lease_s: After how long prefill servers give up a KV cache that nobody fetches:
            ``kv_lease_duration`` of their connector, ``VLLM_NIXL_ABORT_REQUEST_TIMEOUT`` of
            versions that have no lease.
    """

    loads_period_s: NotNegative = Field(
        default=POLL_S, description="the seconds between two polls of the loads; 0 never polls"
    )
    kv_lease_s: Positive = Field(
        default=LEASE_S,
        description="the seconds after which prefill servers give up a KV cache",
    )
