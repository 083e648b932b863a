"""What `voltana top` asks agents for, and how it looks.

An agent answers ``GET /status`` with a JSON object. Every key may be absent or null; it then shows
as a dash. ``docs/sglang-operation.md`` lists the keys.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from voltana.cli.top_account import accounts
from voltana.cli.top_values import number, share, table_of, value_of

ASK_TIMEOUT_S = 2.0
MOST_AT_ONCE = 32
MOST_BYTES = 1 << 20
_THIS_HOST = frozenset({"127.0.0.1", "localhost", "::1"})
"""Where an agent's control endpoint may be; a token is sent nowhere else."""

LATE_SHARE = 0.9
"""From this share of its SLO on a latency is shown as close to it."""


MOST_BROKEN = 0.01
"""Share of the windows that may break the demand envelope (docs/viability.md)."""

WIDE = 160
"""Columns of a terminal from which everything is shown."""

_COLUMNS = (
    ("instance", 0),
    ("role", 0),
    ("state", 0),
    ("MHz", 11),
    ("set by", 0),
    ("run", 4),
    ("KV", 6),
    ("queue", 5),
    ("p99", 6),
    ("SLO ms", 6),
    ("kept", 6),
    ("missed/most", 7),
    ("broken/out %", 9),
    ("lost", 4),
    ("promised", 6),
    ("late/most", 7),
    ("W", 4),
    ("kJ", 6),
    ("saved", 6),
)
"""Titles, and widths of numbers, which are never cut; names give way."""

_WIDE_ONLY = frozenset(
    {
        "role",
        "set by",
        "KV",
        "queue",
        "kJ",
        "missed/most",
        "broken/out %",
        "lost",
        "promised",
        "late/most",
    }
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one agent said.

    Attributes:
        address: Of the agent.
        status: Its status; empty if it did not answer.
        error: Why it did not; empty if it did.
    """

    address: str
    status: Mapping[str, Any]
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"address": self.address, "error": self.error, **self.status}


def ask_all(addresses: Sequence[str], header: Mapping[str, str] | None = None) -> list[Answer]:
    """Ask every agent at the same time; one that does not answer does not hide the others.

    Args:
        addresses: Control addresses of agents.
        header: What shows the token; it is sent to addresses of this host alone.
    """
    with ThreadPoolExecutor(max_workers=min(MOST_AT_ONCE, max(1, len(addresses)))) as pool:
        return list(pool.map(lambda address: _ask(address, header or {}), addresses))


def render(answers: Sequence[Answer], width: int = WIDE) -> RenderableType:
    """One row an agent, those that are silent, the accounts of their guarantees, and the sums.

    Args:
        answers: What agents said.
        width: Columns of the terminal; less than `WIDE` leaves some figures out.
    """
    kept = [i for i, (title, _) in enumerate(_COLUMNS) if width >= WIDE or title not in _WIDE_ONLY]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for title, least in (_COLUMNS[index] for index in kept):
        table.add_column(
            title, justify="right" if least else "left", no_wrap=True, min_width=least or None
        )
    for answer in answers:
        row = _row(answer)
        table.add_row(*(row[index] for index in kept if index < len(row)))
    silent = [Text(f"{a.address} {a.error}", style="bold red") for a in answers if a.error]
    promised = accounts([answer.status for answer in answers])
    return Group(table, *silent, *promised, _sums(answers))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An agent redirects nobody; whoever does would be shown the token."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def _ask(address: str, header: Mapping[str, str]) -> Answer:
    url = (address if "://" in address else f"http://{address}").rstrip("/") + "/status"
    shown = dict(header) if urllib.parse.urlsplit(url).hostname in _THIS_HOST else {}
    try:
        request = urllib.request.Request(url, headers=shown)
        with _OPENER.open(request, timeout=ASK_TIMEOUT_S) as reply:
            status = json.loads(reply.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == http.HTTPStatus.UNAUTHORIZED:
            return Answer(address=address, status={}, error="has another token (--token-file)")
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Answer(address=address, status={}, error=f"does not answer ({reason})")
    if not isinstance(status, dict):
        return Answer(address=address, status={}, error="answers something else than a status")
    return Answer(address=address, status=status)


def _row(answer: Answer) -> list[Text]:
    said = answer.status
    if answer.error:
        return [Text(answer.address), Text("-"), Text("silent", style="bold red")]
    return [
        Text(str(said.get("instance", answer.address))),
        Text(str(said.get("role", "-"))),
        _state(said),
        _clock(said),
        Text(str(said.get("binding") or "-")),
        number(said, "running_requests"),
        number(said, "kv_tokens"),
        number(said, "queued_requests"),
        _against_slo(said),
        number(said, "slo_ms", "g"),
        share(said, "attainment"),
        _account(said),
        _viability(said),
        number(table_of(said, "guarantee"), "lost"),
        _promised(said),
        _late(said),
        number(said, "power_w"),
        Text("-") if value_of(said, "energy_j") is None else Text(f"{said['energy_j'] / 1e3:.1f}"),
        share(said, "saving"),
    ]


def _state(said: Mapping[str, Any]) -> Text:
    health = str(said.get("health", "-"))
    text = f"{health}, dry run" if said.get("dry_run") else health
    return Text(text, style={"ok": "green", "-": ""}.get(health, "bold yellow"))


def _clock(said: Mapping[str, Any]) -> Text:
    clock, target = value_of(said, "clock_mhz"), value_of(said, "target_mhz")
    shown = "-" if clock is None else f"{clock:.0f}"
    return Text(shown if target is None else f"{shown} > {target:.0f}")


def _against_slo(said: Mapping[str, Any]) -> Text:
    latency, slo = value_of(said, "latency_p99_ms"), value_of(said, "slo_ms")
    if latency is None:
        return Text("-")
    if slo is None:
        return Text(f"{latency:.1f}")
    style = "green" if latency < LATE_SHARE * slo else "yellow" if latency <= slo else "bold red"
    return Text(f"{latency:.1f}", style=style)


def _account(said: Mapping[str, Any]) -> Text:
    """Certified labels above their bound, over the most that is proven to be possible."""
    account = table_of(said, "guarantee")
    missed, most = value_of(account, "missed"), value_of(account, "bound")
    if missed is None or most is None:
        return Text("-")
    return Text(f"{missed:.0f}/{most:.0f}", style="" if missed <= most else "bold red")


def _promised(said: Mapping[str, Any]) -> Text:
    """Share of the requests that were promised, the least of the thresholds."""
    shares = [value_of(account, "share_promised") for account in _requests(said)]
    known = [share for share in shares if share is not None]
    return Text(f"{100 * min(known):.1f} %" if known else "-")


def _late(said: Mapping[str, Any]) -> Text:
    """Promised requests that missed their threshold, over the most that is proven."""
    counts = [(value_of(a, "missed"), value_of(a, "bound")) for a in _requests(said)]
    known = [(missed, most) for missed, most in counts if missed is not None and most is not None]
    if not known:
        return Text("-")
    broken = any(missed > most for missed, most in known)
    missed, most = (sum(one) for one in zip(*known, strict=True))
    return Text(f"{missed:.0f}/{most:.0f}", style="bold red" if broken else "")


def _requests(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The accounts of promised requests, one for each threshold."""
    legs = table_of(table_of(said, "guarantee"), "requests")
    return [account for account in legs.values() if isinstance(account, Mapping)]


def _viability(said: Mapping[str, Any]) -> Text:
    """Percent of the windows that broke the envelope, and of the steps outside the viable set."""
    account = table_of(said, "viability")
    broken, outside = value_of(account, "broken_share"), value_of(account, "outside_share")
    if broken is None and outside is None:
        return Text("-")
    shown = ("-" if share is None else f"{100 * share:.1f}" for share in (broken, outside))
    return Text("/".join(shown), style="bold yellow" if (broken or 0.0) > MOST_BROKEN else "")


def _sums(answers: Sequence[Answer]) -> Text:
    statuses = [answer.status for answer in answers]
    power = [value_of(said, "power_w") for said in statuses]
    energy = [value_of(said, "energy_j") for said in statuses]
    used_j = sum(value for value in energy if value is not None)
    saved_j = sum(_saved_j(said) for said in statuses)
    parts = [f"{len(answers)} agents"]
    if any(value is not None for value in power):
        parts.append(f"{sum(value for value in power if value is not None):.0f} W")
    if used_j > 0:
        share = 100 * saved_j / (used_j + saved_j)
        parts.append(f"{used_j / 1e3:.1f} kJ, estimated saving {share:.1f} %")
    return Text(", ".join(parts))


def _saved_j(said: Mapping[str, Any]) -> float:
    """Energy that was not used, from what was used and the share that this is less."""
    used, share = value_of(said, "energy_j"), value_of(said, "saving")
    return 0.0 if used is None or share is None or share >= 1 else used * share / (1 - share)
