"""What clients may ask of a router, as a user sets it: the table ``[router.limits]``."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, field_validator

from voltana.errors import invalid
from voltana.validation import Count, Positive, StrictTable, WholeNotNegative

Part = Annotated[float, Field(ge=0, le=1)]


class LimitsTable(StrictTable):
    """Limits that hold for all clients together, and for each where it says so.

    Attributes:
        bodies_mb: Bodies of all open requests together, in megabytes; those of up to 64 kB, which
            `RouterTable.max_in_flight` limits, are taken beyond it.
        batch: Prompts of one request.
        nesting: Depth of a body's lists and objects.
        reading_mb: Memory that reading one long body may take.
        reading_s: Time of the processor that reading one long body may take; six times as long in
            all, where cores are busy.
        answer_mb: Longest answer, or event of a stream, that is kept in memory; streams that are
            passed on have no limit.
        header_s: Time for the head of a request, from its first byte.
        body_s: Time for its body.
        idle_s: Time that a connection may stay open without a request.
        unread_s: Time that a client may leave an answer unread.
        unfinished: Connections without a complete request; beyond it the oldest is closed.
        busy_ms: Delay of the router's own work from which new requests are refused.
        busy_from: Open requests up to which none is refused for that.
        per_client: Open requests of one client address; 0 for any number.
        trusted: Addresses or networks that `per_client` does not concern, such as a proxy's.
        serving_share: Share of the servers of a role that failing requests cannot eject.
        retry_share: Repetitions of requests that a server answered with an error or not in time,
            by requests, beyond the first ten a second.
    """

    bodies_mb: Positive = Field(default=256.0, description="the megabytes of all open bodies")
    batch: Count = Field(default=1024, description="the prompts that one request may hold")
    nesting: Annotated[int, Field(ge=4, le=200)] = Field(
        default=100, description="the depth of a body's lists and objects"
    )
    reading_mb: Annotated[int, Field(ge=64)] = Field(
        default=2048, description="the megabytes that reading one body may take"
    )
    reading_s: Positive = Field(
        default=10.0, description="the seconds of the processor to read one body"
    )
    answer_mb: Positive = Field(default=256.0, description="the longest answer in megabytes")
    header_s: Positive = Field(default=10.0, description="the seconds for a request's head")
    body_s: Positive = Field(default=60.0, description="the seconds for a request's body")
    idle_s: Positive = Field(default=75.0, description="the seconds of an idle connection")
    unread_s: Positive = Field(default=60.0, description="the seconds of an unread answer")
    unfinished: Count = Field(
        default=4096, description="the connections that may be without a complete request"
    )
    busy_ms: Positive = Field(
        default=50.0, description="the delay of the router's work that refuses requests"
    )
    busy_from: Count = Field(
        default=128, description="the open requests up to which that refuses none"
    )
    per_client: WholeNotNegative = Field(
        default=0, description="the open requests of one client address; 0 for any number"
    )
    trusted: tuple[str, ...] = Field(
        default=(), description="a list of addresses or networks that per_client leaves alone"
    )
    serving_share: Part = Field(
        default=0.5, description="the share of servers that failures cannot eject"
    )
    retry_share: Part = Field(default=0.2, description="the share of requests that is repeated")

    @field_validator("trusted")
    @classmethod
    def _are_networks(cls, trusted: tuple[str, ...]) -> tuple[str, ...]:
        for text in trusted:
            try:
                ip_network(text)
            except ValueError:
                raise invalid(
                    "trusted", text, "an address or a network such as 10.0.0.0/8", "Correct it."
                ) from None
        return trusted
