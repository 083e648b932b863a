"""The guarantee of one ring, and its account, kept over kills of the agent at any moment.

After all records of a round are worked through, one write holds how far the ring was read, the
margins with their account, and the decisions whose labels have not come. An agent that was killed
reads the ring on from there, so that every label is scored once: what the engine ended meanwhile is
in the ring. What is not, because the ring was overwritten or is another, is counted as lost.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import structlog

from voltana.predictors.conformal import at_most
from voltana.serving.agent.issued import from_json, to_json
from voltana.serving.agent.kept_state import UNREADABLE, checked, scorable
from voltana.serving.agent.open_decisions import RESTART, OpenDecisions, guarantee_of
from voltana.serving.agent.told_requests import ToldRequests
from voltana.serving.agent.two_slots import TwoSlots
from voltana.values import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.predictors.conformal import Conformal
    from voltana.predictors.profile import Stack
    from voltana.serving.agent.token_gaps import TokenGaps
    from voltana.serving.ring_records import Record
    from voltana.serving.sensors.port import RecordReader

TOLD = 1
"""What is noted beforehand: how much is decided, and how much of what the ring tells is heard."""

_log = structlog.get_logger("voltana.serving.guarantee")


def guarantee_path(folder: Path, loop: str, stack: Stack) -> Path:
    """File of the guarantee of a loop; margins of another model, TP or engine are not its own."""
    digest = hashlib.sha256(stack.model_dump_json().encode()).hexdigest()[:8]
    return folder / f"{loop}.{digest}.guarantee"


class Guarantee:
    """What was promised on one ring, and what became of it.

    Args:
        path: Where it is kept; None keeps nothing.

    Raises:
        HeldError: If another agent keeps it there.

    Attributes:
        certified: Certified decisions that were issued.
        requests: Promised requests.
        restored: ``new``, ``restored``, or what is wrong with what was kept.
        failing: Why it cannot be kept just now; empty while it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._slots: TwoSlots | None = None
        self._kept: dict[str, Any] = {}
        self._carried: dict[str, float] = {}
        self._causes: dict[str, int] = {}
        self._issuers: list[Conformal] = []
        self.certified = 0
        self.requests = ToldRequests()
        self.restored = "new"
        self.failing = ""
        self._name = "" if path is None else path.name
        if path is not None:
            self._open(path)
        self._carried = dict(self._kept.get("carried", {}))
        self._causes = dict(self._kept.get("causes", {}))
        self.certified = int(self._kept.get("certified", 0))
        self._decisions = int(self._kept.get("decisions", 0))

    def _open(self, path: Path) -> None:
        try:
            self._slots = TwoSlots(path)
        except OSError as error:
            self._keep_nothing(error)
            return
        try:
            text = self._slots.read()
            if text is not None:
                self._kept = checked(json.loads(text), self._name)
                requests = self._kept.pop("requests", None)
                if requests is not None:  # else it was written before requests were promised
                    self.requests.restore(requests)
                self.restored = "restored"
        except UNREADABLE as error:
            self._set_aside(path, error)

    def adopt(self, predictor: Any) -> None:
        """Give the guarantee in a predictor, if there is one, the margins that were kept."""
        found = guarantee_of(predictor)
        if found is None or found in self._issuers:
            return
        self._issuers.append(found)
        state = self._kept.pop("state", None)
        if state is None:
            return
        account, causes = self._kept.pop("account", {}), self._kept.pop("own_causes", {})
        try:
            found.restore(state)
        except Exception as error:  # noqa: BLE001  (another statement, or a file of another version)
            # What it promised is past, and stays in the account.
            self._carried = sum_of(self._carried, account)
            self._causes = sum_of(self._causes, causes)
            _log.warning("the margins are found anew", error=str(error))

    @property
    def state(self) -> str:
        """``new``, ``restored``, or what is wrong: with what was kept, or with keeping it."""
        return f"damaged: cannot be kept: {self.failing}" if self.failing else self.restored

    def resume(self, reader: RecordReader, opened: OpenDecisions, gaps: TokenGaps) -> None:
        """Go on where an agent was killed, with the decisions that were open.

        Args:
            reader: Of the ring; it goes back to what the other had not read.
            opened: Takes the decisions.
            gaps: Learns when the last token was, for the next one has waited since.
        """
        ring, decisions = self._kept.pop("ring", None), self._kept.pop("open", [])
        times = self._kept.pop("gaps", None)
        if self._slots is None:
            return
        intent, issuer = self._slots.intent(), self._issuers[-1] if self._issuers else None
        for iteration, own, issued in decisions:
            decision = from_json(issued)
            if own and issuer is not None and scorable(decision, issuer):
                opened.add(int(iteration), decision, issuer)
            elif decision is not None and decision.status is Status.CERTIFIED:
                self._causes[RESTART] = self._causes.get(RESTART, 0) + 1
        if intent is not None and intent > self._decisions:
            # Killed between decisions and the write after them, which a full disk may have put off
            # for long: each may have been certified.
            unwritten = intent - self._decisions
            self.certified += unwritten
            self._causes[RESTART] = self._causes.get(RESTART, 0) + unwritten
            self._decisions = intent
        self.requests.presume(self._slots.intent(TOLD))
        if ring is not None and ring["identity"] == reader.identity:
            reader.go_back(int(ring["position"]), self.requests.told)
            if times is not None:
                gaps.restore(times)
            return
        self.leave_ring(reader, opened, gaps, RESTART)  # what is kept is of this ring from now on

    def leave_ring(
        self, reader: RecordReader, opened: OpenDecisions, gaps: TokenGaps, cause: str
    ) -> None:
        """Give up what was under way on a ring whose engine is gone; no more is heard of it.

        Args:
            reader: Of the ring that counts from now on.
            opened: Decisions whose labels will not come.
            gaps: Of the ring.
            cause: Why they will not.
        """
        opened.give_up(cause)
        self.requests.lose()
        self.keep(reader, opened, gaps)
        self._note(0, TOLD)

    def intend(self) -> None:
        """Note that something is about to be decided."""
        self._decisions += 1
        self._note(self._decisions)

    def take(self, record: Record) -> None:
        """Promise to the requests of a record of changes, or score them; noted beforehand."""
        self._note(record.iteration + len(record.changes), TOLD)
        self.requests.take(record)

    def _note(self, *noted: int) -> None:
        if self._slots is not None:
            try:
                self._slots.intend(*noted)
            except OSError as error:
                self._complain(error)

    def keep(self, reader: RecordReader, opened: OpenDecisions, gaps: TokenGaps) -> None:
        """Write all of it; a disk that fails is reported, and ends nothing."""
        if self._slots is None:
            return
        current = self._issuers[-1] if self._issuers else None
        values = {
            "name": self._name,
            "ring": {"identity": reader.identity, "position": reader.position},
            "gaps": gaps.to_dict(),
            "decisions": self._decisions,
            "open": [
                (iteration, guarantee_of(found.issuer) is current, to_json(found.decision))
                for iteration, found in opened
                if found.decision is not None
            ],
            **self._own(current),
            "carried": sum_of(self._carried, self._account_of(self._issuers[:-1])),
            "causes": sum_of(self._causes, *(issuer.unlabelled for issuer in self._issuers[:-1])),
            "certified": self.certified,
        }
        try:
            text = json.dumps(values, separators=(",", ":"))
            # What is promised to requests is large, and changes with few iterations.
            self._slots.write(f'{text[:-1]},"requests":{self.requests.to_json()}}}'.encode())
        except (OSError, ValueError) as error:
            self._complain(error)
        else:
            self.failing = ""

    def _complain(self, error: Exception) -> None:
        if not self.failing:
            _log.error("the account cannot be kept", error=str(error))
        self.failing = str(error) or repr(error)

    def _own(self, current: Conformal | None) -> dict[str, Any]:
        """What is kept of the policy's own guarantee; without one what there was is passed on."""
        if current is None:
            return {name: self._kept.get(name) or {} for name in ("account", "own_causes")} | {
                "state": self._kept.get("state")
            }
        return {
            "state": current.to_dict(),
            "account": current.account(),
            "own_causes": dict(current.unlabelled),
        }

    def account(self) -> dict[str, float]:
        """The account over everything that was promised on this ring (docs/guarantee.md)."""
        waiting = self._kept.get("account") or {}
        return sum_of(self._carried, waiting, self._account_of(self._issuers))

    def unlabelled(self) -> dict[str, int]:
        """Certified decisions whose label never came, by cause."""
        waiting = self._kept.get("own_causes") or {}
        return sum_of(self._causes, waiting, *(issuer.unlabelled for issuer in self._issuers))

    def figures(self, opened: OpenDecisions) -> dict[str, Any]:
        """The account as a status shows it: each certified decision is in it once.

        Args:
            opened: Decisions whose labels have not come.
        """
        account = self.account()
        labels, missed = int(account.get("certified", 0)), int(account.get("missed", 0))
        return {
            **account,
            "decided": self.certified,
            "in_flight": opened.certified(),
            "unlabelled": self.unlabelled(),
            "lost": sum(self.unlabelled().values()),
            "longest_delay": max((i.longest_delay for i in self._issuers), default=0),
            "at_most": at_most(missed, labels),
            "state": self.state,
            "requests": self.requests.accounts(),
        }

    def sync(self) -> None:
        """Have it on the disk.

        Raises:
            OSError: If it cannot be written.
        """
        if self._slots is not None:
            self._slots.sync()

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Begin anew, and say so: nothing can be said of what was promised before."""
        aside = path.with_suffix(".guarantee.damaged")
        self._kept = {}
        self.requests = ToldRequests()
        try:
            path.replace(aside)
            self.close()
            self._slots = TwoSlots(path)
        except OSError as failure:
            self.close()
            self._keep_nothing(failure)
            return
        self.restored = f"damaged: {error}"
        _log.error("the account cannot be read; begun anew", error=str(error), kept=str(aside))

    def _keep_nothing(self, error: Exception) -> None:
        """Go on without a file, and say so."""
        self.restored = f"damaged: cannot be kept: {error}"
        _log.error("the account cannot be kept", error=str(error))

    @staticmethod
    def _account_of(issuers: list[Conformal]) -> dict[str, float]:
        return sum_of(*(issuer.account() for issuer in issuers))


def sum_of(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Sums by name."""
    total: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total.get(name, 0) + value
    return total
