"""The table ``[router]`` in front of vLLM servers."""

from __future__ import annotations

from pydantic import Field

from voltana.serving.router.settings import RouterTable
from voltana.validation import NotNegative  # noqa: TC001  (pydantic reads it)

POLL_S = 0.5


class VllmRouterTable(RouterTable):
    """The router; servers without a feed are asked for ``/metrics``, which is long.

    Attributes:
        loads_period_s: Time between two polls.
    """

    loads_period_s: NotNegative = Field(
        default=POLL_S, description="the seconds between two polls of the loads; 0 never polls"
    )
