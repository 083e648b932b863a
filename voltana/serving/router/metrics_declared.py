"""What a router tells Prometheus: each metric once."""

from __future__ import annotations

from voltana_actuatord.metrics.declared import Metric

PREFIX = "voltana_router_"


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind="gauge", help=text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=f"{PREFIX}{name}_total", kind="counter", help=text, labels=labels)


REQUESTS = _counter("requests", "Requests, by endpoint and how they ended.", "endpoint", "outcome")
CHOICES = _counter(
    "choices",
    "Choices among several instances, by role and what they were planned on.",
    "role",
    "source",
)
RETRIES = _counter("retries", "Attempts that were repeated, by the server to blame.", "backend")
FIRST_TOKEN = Metric(
    name=PREFIX + "first_token_seconds",
    kind="histogram",
    help="Arrival to the first token of a stream, or to a whole answer.",
)
OPEN = _gauge("open_requests", "Requests that are open.")
AVAILABLE = _gauge("backend_available", "1 if a server gets requests.", "backend", "role")
IN_FLIGHT = _gauge("backend_in_flight", "Prompts in flight towards a server.", "backend", "role")
HELD_CACHES = _gauge(
    "backend_held_kv_tokens",
    "Prompt tokens, estimated, whose KV cache a prefill server holds for requests that have left "
    "it, until a decode server has fetched it.",
    "backend",
    "role",
)
MISSING = _gauge(
    "missing",
    "1 for what the router of a role needs and a server does not give it.",
    "role",
    "backend",
    "need",
)
CHOICES_WITHOUT = _counter(
    "choices_without",
    "Choices among several instances that a router made without something that it needs.",
    "role",
)
HELD = _gauge("held_requests", "Requests that are held back now.", "before")
HELD_OLDEST = _gauge(
    "held_oldest_seconds", "Longest wait of the requests that are held back now.", "before"
)
DEFERRED = _counter("deferred", "Requests that were held back.", "before", "reason")
HELD_SECONDS = _counter("held_seconds", "Time that requests were held back.", "before")
HELD_ENDED = _counter(
    "held_ended",
    "Requests that could wait no longer (overdue), or that nobody wanted any more (cancelled).",
    "before",
    "how",
)
HELD_LATE = _counter(
    "held_late", "Requests that waited on though they were late in any case.", "before"
)
TENANT_ENERGY = _counter(
    "tenant_energy_joules",
    "Energy of the instances of a role, as their agents tell it, split among tenants.",
    "tenant",
    "role",
)
UNATTRIBUTED = _counter(
    "unattributed_energy_joules",
    "Energy of the instances of a role while no request of this router was there.",
    "role",
)
TENANT_REQUESTS = _counter("tenant_requests", "Requests that were understood.", "tenant")
TENANT_TOKENS = _counter(
    "tenant_prompt_tokens", "Prompt tokens of those requests, estimated.", "tenant"
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    CHOICES,
    RETRIES,
    FIRST_TOKEN,
    OPEN,
    AVAILABLE,
    IN_FLIGHT,
    HELD_CACHES,
    MISSING,
    CHOICES_WITHOUT,
    HELD,
    HELD_OLDEST,
    DEFERRED,
    HELD_SECONDS,
    HELD_LATE,
    HELD_ENDED,
    TENANT_ENERGY,
    UNATTRIBUTED,
    TENANT_REQUESTS,
    TENANT_TOKENS,
)
"""All of them."""
