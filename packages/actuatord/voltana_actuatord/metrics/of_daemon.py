"""What the daemon's status says, as metrics: declared here, and read from one status message.

The figures are those of the worker (leases, GPUs as it sees them) and of the parent (marks, starts
of the worker, its log), which count from their own start on. A status that an older daemon sent has
fewer of them: what is not there is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_actuatord.metrics.declared import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from voltana_actuatord.metrics.exposition import Sample

    Status = Mapping[str, Any]

PREFIX = "voltana_actuatord_"

UP = Metric(
    name=PREFIX + "up",
    kind="gauge",
    help="1 if the daemon answered the last question for its status.",
)
GPUS = Metric(
    name=PREFIX + "gpus",
    kind="gauge",
    help="GPUs that the daemon has opened or has to restore, by what is known of their clock "
    "(docs/actuation.md): lent, default, watched, doubtful, restoring.",
    labels=("state",),
)
LEASES = Metric(
    name=PREFIX + "leases",
    kind="gauge",
    help="Leases: active ones hold their GPUs, lapsed ones wait for their next step.",
    labels=("state",),
)
LEASED = Metric(
    name=PREFIX + "leased_gpus", kind="gauge", help="GPUs that active leases hold together."
)
FOREIGN = Metric(
    name=PREFIX + "foreign_clocks",
    kind="gauge",
    help="GPUs whose clock another tool had set when they were looked at last: they are not lent.",
)
MARKS = Metric(
    name=PREFIX + "marks",
    kind="gauge",
    help="GPUs on which a lock of this daemon stands or may stand, by the marks of its parent.",
)
QUARANTINED = Metric(
    name=PREFIX + "quarantined_gpus",
    kind="gauge",
    help="GPUs that are refused to everybody until they are restored and have rested.",
)
CONNECTIONS = Metric(name=PREFIX + "connections", kind="gauge", help="Clients that are connected.")
UPTIME = Metric(
    name=PREFIX + "worker_uptime_seconds", kind="gauge", help="Age of the worker process."
)
EVENTS = Metric(
    name=PREFIX + "lease_events_total",
    kind="counter",
    help="Leases granted, refused, lapsed (no completed control step in time) and revoked (the GPU "
    "failed, another tool, an operator).",
    labels=("event",),
)
CLOCK_CHANGES = Metric(
    name=PREFIX + "clock_changes_total", kind="counter", help="Clocks that leases asked for anew."
)
FAILURES = Metric(
    name=PREFIX + "driver_failures_total",
    kind="counter",
    help="Wishes that a GPU's driver did not fulfil.",
)
TURNED_AWAY = Metric(
    name=PREFIX + "connections_refused_total",
    kind="counter",
    help="Connections refused or ended: strangers in no rule, crowded out of the places, or "
    "against the protocol.",
    labels=("reason",),
)
STARTS = Metric(
    name=PREFIX + "worker_starts_total",
    kind="counter",
    help="Times that the parent started a worker; more than one says that one died or hung.",
)
DROPPED = Metric(
    name=PREFIX + "log_lines_dropped_total",
    kind="counter",
    help="Log lines that were not written: too many at once, or nobody reads them.",
    labels=("process",),
)
TARGET = Metric(
    name=PREFIX + "gpu_target_clock_hertz",
    kind="gauge",
    help="SM clock that the active lease of a GPU asked for.",
    labels=("uuid",),
)
CLOCK = Metric(
    name=PREFIX + "gpu_clock_hertz",
    kind="gauge",
    help="SM clock that was read back after the last change of a lent GPU.",
    labels=("uuid",),
)
STATE = Metric(
    name=PREFIX + "gpu_state_info",
    kind="gauge",
    help="1 for the state of each GPU, as far as a status message has room.",
    labels=("uuid", "state"),
)
FOREIGN_GPU = Metric(
    name=PREFIX + "gpu_foreign_clock",
    kind="gauge",
    help="1 for a GPU whose clock another tool had set when it was looked at last.",
    labels=("uuid",),
)


def _figure(*path: str) -> Callable[[Status], Iterator[Sample]]:
    """One number of the status, where it is there."""

    def read(status: Status) -> Iterator[Sample]:
        found: Any = status
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None:
            yield (), float(found)

    return read


def _counted(table: str, *names: str) -> Callable[[Status], Iterator[Sample]]:
    """Numbers of a table, by name."""

    def read(status: Status) -> Iterator[Sample]:
        for name in names:
            for _, value in _figure(table, name)(status):
                yield (name,), value

    return read


def _leases(status: Status) -> Iterator[Sample]:
    active = [bool(one["active"]) for one in status.get("leases", ())]
    yield ("active",), float(sum(active))
    yield ("lapsed",), float(len(active) - sum(active))


def _dropped(status: Status) -> Iterator[Sample]:
    for process, path in (
        ("parent", ("parent", "lines_dropped")),
        ("worker", ("counters", "lines_dropped")),
    ):
        for _, value in _figure(*path)(status):
            yield (process,), value


def _targets(status: Status) -> Iterator[Sample]:
    for lease in status.get("leases", ()):
        if lease["active"] and lease["target_mhz"]:
            for uuid in lease["devices"]:
                yield (uuid,), 1e6 * lease["target_mhz"]


def _clocks(status: Status) -> Iterator[Sample]:
    for gpu in status.get("gpus", ()):
        if gpu.get("clock_mhz") is not None and gpu["state"] == "lent":
            yield (gpu["uuid"],), 1e6 * gpu["clock_mhz"]


READ: tuple[tuple[Metric, Callable[[Status], Iterator[Sample]]], ...] = (
    (GPUS, _counted("gpu_states", "lent", "default", "watched", "doubtful", "restoring")),
    (LEASES, _leases),
    (LEASED, _figure("leased_gpus")),
    (FOREIGN, _figure("gpu_states", "foreign")),
    (MARKS, _figure("parent", "marks")),
    (QUARANTINED, _figure("parent", "quarantined")),
    (CONNECTIONS, _figure("connections")),
    (UPTIME, _figure("uptime_s")),
    (EVENTS, _counted("counters", "granted", "refused", "lapsed", "revoked")),
    (CLOCK_CHANGES, _figure("counters", "clock_changes")),
    (FAILURES, _figure("counters", "driver_failures")),
    (TURNED_AWAY, _counted("counters", "strangers", "crowded_out", "protocol_errors")),
    (STARTS, _figure("parent", "worker_starts")),
    (DROPPED, _dropped),
    (TARGET, _targets),
    (CLOCK, _clocks),
    (STATE, lambda status: (((g["uuid"], g["state"]), 1.0) for g in status.get("gpus", ()))),
    (
        FOREIGN_GPU,
        lambda status: (
            ((g["uuid"],), float(g.get("foreign") is True)) for g in status.get("gpus", ())
        ),
    ),
)
"""Each metric, and how it is read from a status."""

METRICS: tuple[Metric, ...] = (UP, *(metric for metric, _ in READ))


def families(status: Status | None) -> Iterator[tuple[Metric, Iterator[Sample]]]:
    """All metrics; of a daemon that does not answer, that alone.

    Args:
        status: What it said; None if it did not answer.
    """
    yield UP, iter((((), float(status is not None)),))
    if status is not None:
        for metric, read in READ:
            yield metric, read(status)
