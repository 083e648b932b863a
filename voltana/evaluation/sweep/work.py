"""One scenario of a sweep as a worker runs it, and what every kind of worker offers."""

from __future__ import annotations

import dataclasses
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from voltana.config import parse_scenario
from voltana.errors import ConfigError, VoltanaError
from voltana.evaluation.best_fixed import REFERENCE
from voltana.evaluation.compare import compare
from voltana.evaluation.metrics import plain_figures
from voltana.evaluation.scenario import resolve
from voltana.evaluation.sweep.named_files import check_unchanged
from voltana.policy import Policy, load_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from voltana.evaluation.compare import PolicyRun

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A scenario to run, in plain values that travel to any worker.

    Attributes:
        key: What identifies it.
        scenario: The scenario file's tables.
        policy_source: As in `Plan`.
        digests: As in `Point`.
    """

    key: str
    scenario: dict[str, Any]
    policy_source: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: That of the task.
        rows: The figures of each policy; empty if it failed.
        error: Why it failed; empty if it did not.
    """

    key: str
    rows: tuple[Row, ...] = ()
    error: str = ""


class Workers(Protocol):
    """Runs tasks somewhere."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Give the outcome of each task once, in the order in which they end.

        Closing the iterator ends all that still runs.
        """
        ...


def attempt(task: Task) -> Outcome:
    """Run a task; whatever it raises is its outcome."""
    try:
        rows = run_task(task)
        check_unchanged(task.digests)
        return Outcome(key=task.key, rows=rows)
    except VoltanaError as error:
        return Outcome(key=task.key, error=str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a user's own policy raises)
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return Outcome(key=task.key, error=said)


def run_task(task: Task) -> tuple[Row, ...]:
    """The figures of each policy of a task, as plain JSON values."""
    file = parse_scenario(task.scenario)
    if task.policy_source is None:
        return tuple(_row(run) for run in compare(resolve(file)).runs)
    source = task.policy_source
    scenario = resolve(file.model_copy(update={"policies": (REFERENCE,)}))
    policies = {name: policy_from(source, name) for name in file.policies}
    return tuple(
        _row(run) for run in compare(dataclasses.replace(scenario, policies=policies)).runs
    )


def policy_from(source: str, name: str) -> Policy:
    """The policy that a source makes of a name.

    Args:
        source: ``MODULE:FUNCTION``.
        name: What it is called with.

    Raises:
        ConfigError: If it makes something else.
    """
    make = load_object(source, field="policy source")
    policy = make(name) if callable(make) else make
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"policy source = {source!r} made a {type(policy).__name__} of {name!r}: must make a "
            "voltana.policy.Policy. Return one."
        )
    return policy


def _row(run: PolicyRun) -> Row:
    chosen = run.choice
    found = {
        "chosen_prefill_mhz": None if chosen is None else chosen.prefill_mhz,
        "chosen_decode_mhz": None if chosen is None else chosen.decode_mhz,
        "chosen_keeps_slo": None if chosen is None else chosen.kept,
    }
    return {**run.result.to_dict(), **plain_figures(found)}
