"""ForwardPassMetrics as an agent's source of records, with no plugin in the engine."""

from __future__ import annotations

import math
import os
import uuid
from typing import TYPE_CHECKING, Any

import structlog

from voltana.serving.sensors.forward_pass_message import ForwardPass, parse_forward_pass
from voltana.serving.sensors.forward_pass_order import Order
from voltana.serving.sensors.forward_pass_receiver import Receiver
from voltana.serving.sensors.forward_pass_records import ForwardPassRecords
from voltana_ring.bell import open_bell
from voltana_ring.paths import bell_path, ring_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from voltana.ports import TimeSource
    from voltana.serving.config_tables import Role
    from voltana.serving.ring_records import Record

SILENT_S = 10.0
"""An endpoint that has said nothing for so long is reported."""

QUIET_S = 10.0
"""Between two complaints about an endpoint; each message that is none is counted."""

ENGINE = "forward-pass-metrics"
"""What latencies were measured by: they are not those of the plugin's hooks."""

_log = structlog.get_logger("voltana.serving.forward_pass")


class ForwardPassReader:
    """Reads what one engine tells, from its first message to the end of its connection.

    Args:
        path: Where its ring would be; loops are named after it.
        receiver: Listens to its endpoint.
        role: What the server was started as.
        max_batch_tokens: Prompt tokens of one iteration.
        time: Source of time.

    Attributes:
        path: See above.
        info: What is known of the engine.
        torn: Messages that are none.
        identity: Names this engine among all that the endpoint had.
        why: What is wrong with the last message that is none; empty if none was.
    """

    def __init__(
        self, path: Path, receiver: Receiver, *, role: Role, max_batch_tokens: int, time: TimeSource
    ) -> None:
        self.path = path
        self.info: dict[str, Any] = {
            "engine": ENGINE,
            "role": role,
            "max_prefill_tokens": max_batch_tokens,
        }
        self.torn = 0
        self.identity = f"{receiver.endpoint}#{uuid.uuid4().hex}"
        self.why = ""
        self._receiver = receiver
        self._records = ForwardPassRecords(max_batch_tokens, joins=role == "unified")
        self._time = time
        self._position = 0
        self._order = Order()
        self._quiet_until_s = -math.inf
        self._ended = False
        self._overrun = receiver.overrun
        self._missing: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Iterations of which nothing was heard.

        What was dropped here, unread, leaves the gaps by which losses are seen as well.
        """
        return max(self._records.lost, self._receiver.overrun - self._overrun)

    @property
    def position(self) -> int:
        """Number of the message that comes next."""
        return self._position

    def drain(self, newest: int | None = None) -> list[Record]:
        """The records that were told since the last call, or the newest so many, in order."""
        records: list[Record] = []
        while not self._ended and (came := self._receiver.take()) is not None:
            if came.raw is None:
                self._ended = True
            else:
                records += self._read(came.raw, came.at_s)
        if newest is not None and len(records) > newest:
            self._records.lost += len(records) - newest
            records = records[-newest:]
        return records or self._records.silent(self._time.now_s())

    def wait_s(self, now_s: float) -> float:  # noqa: ARG002
        """Messages wake whoever waits for them."""
        return math.inf

    def go_back(self, position: int, told: int | None = None) -> None:
        """Nothing that was told is kept anywhere."""

    def replaced(self) -> bool:
        """Whether the connection ended, or another engine counts from the beginning."""
        return self._ended

    def close(self) -> None:
        """The endpoint stays connected, for the next engine."""

    def _read(self, raw: bytes, at_s: float) -> list[Record]:
        self._position += 1
        try:
            told = parse_forward_pass(raw)
        except ValueError as error:
            self._refuse(str(error))
            return []
        if problem := self._order.problem(told, at_s):
            self._refuse(problem)
            self._ended = self._order.restarted  # the connection has outlived its engine
            return []
        self.info.setdefault("version", str(told.version))
        self._name_missing(told)
        return self._records.take(told, at_s)

    def _refuse(self, why: str) -> None:
        self.torn += 1
        if self.why != why:
            self.why = why
            if self._may_complain():
                _log.warning("no ForwardPassMetrics", endpoint=self._receiver.endpoint, error=why)

    def _may_complain(self) -> bool:
        """Whether to log again: whoever sends nonsense sends a thousand lines of it a second."""
        now_s = self._time.now_s()
        if now_s < self._quiet_until_s:
            return False
        self._quiet_until_s = now_s + QUIET_S
        return True

    def _name_missing(self, told: ForwardPass) -> None:
        if told.missing != self._missing:
            self._missing = told.missing
            if not self._may_complain():
                return
            _log.warning(
                "ForwardPassMetrics lacks fields: losses, waiting requests or prompts' lengths are "
                "not seen as far as they tell them",
                endpoint=self._receiver.endpoint,
                missing=list(told.missing),
            )


class ForwardPassSources:
    """The endpoints of one instance, one for each data-parallel rank.

    Args:
        endpoints: Their addresses.
        folder: Where rings would be.
        instance: Name of the instance.
        role: What its server was started as.
        max_batch_tokens: Prompt tokens of one iteration.
        time: Source of time.

    Raises:
        ConfigError: If an endpoint is none that can be connected to.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        folder: Path,
        instance: str,
        role: Role,
        max_batch_tokens: int,
        time: TimeSource,
    ) -> None:
        self._time = time
        self._role: Role = role
        self._max_batch_tokens = max_batch_tokens
        self._since_s = time.now_s()
        self._readers: dict[Path, ForwardPassReader] = {}
        self._receivers: dict[Path, Receiver] = {}
        self._bell = open_bell(bell_path(folder, instance))
        try:
            for rank, endpoint in enumerate(endpoints):
                path = ring_path(folder, instance, f"@dp{rank}.pp0.tp0")
                self._receivers[path] = Receiver(endpoint, self._bell, time)
        except BaseException:
            self.close()
            raise

    def find(self) -> list[Path]:
        """Ranks that have spoken and whose connection has not ended."""
        now = []
        for path, receiver in self._receivers.items():
            reader = self._readers.get(path)
            if (reader is not None and not reader.replaced()) or len(receiver):
                now.append(path)
        return now

    def open(self, path: Path) -> ForwardPassReader:
        """Read a rank from its oldest message on."""
        self._readers[path] = ForwardPassReader(
            path,
            self._receivers[path],
            role=self._role,
            max_batch_tokens=self._max_batch_tokens,
            time=self._time,
        )
        return self._readers[path]

    def problem(self) -> str:
        """The first endpoint that is silent, or says what is no ForwardPassMetrics.

        Engines say every second that they are idle: silence is a dead engine, or a long iteration.
        """
        for path, receiver in self._receivers.items():
            reader = self._readers.get(path)
            if reader is not None and reader.why and reader.torn == reader.position:
                return f"{receiver.endpoint} tells no ForwardPassMetrics: {reader.why}"
            silent_s = self._time.now_s() - max(self._since_s, receiver.heard_s)
            if silent_s > SILENT_S:
                return (
                    f"nothing was heard of {receiver.endpoint} for {math.floor(silent_s)} s "
                    f"({receiver.state}): must publish ForwardPassMetrics. Start the engine with "
                    "it (SGLang: --enable-forward-pass-metrics and "
                    "--forward-pass-metrics-ipc-name, to which it adds a dot and the rank)."
                )
        return ""

    def close(self) -> None:
        """Stop listening; may be called twice."""
        for receiver in self._receivers.values():
            receiver.close()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
