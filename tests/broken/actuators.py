"""Actuators that break one promise each."""

from __future__ import annotations

import dataclasses
import math
import time

from tests.honest import (
    TABLE_MHZ,
    HonestActuator,
)
from voltana.values import Health


class NoClose:
    def table(self):
        return TABLE_MHZ

    def apply(self, command):
        pass

    def status(self):
        return HonestActuator().status()


class Descending(HonestActuator):
    def table(self):
        return TABLE_MHZ[::-1]


class EmptyTable(HonestActuator):
    def table(self):
        return ()


class StartsAtZero(HonestActuator):
    def __init__(self):
        super().__init__()
        self.target_mhz = 0.0


class NeverMoves(HonestActuator):
    """Reports the target, and never reads the device."""

    def apply(self, command):
        kept = self.clock_mhz
        super().apply(command)
        self.clock_mhz = kept


class ForgetsTheTarget(HonestActuator):
    def apply(self, command):
        super().apply(command)
        self.target_mhz = math.nan


class Blocks(HonestActuator):
    def apply(self, command):
        time.sleep(0.06)
        super().apply(command)


class FirstWins(HonestActuator):
    """A queue of one: commands that come while one is pending are lost."""

    def __init__(self):
        super().__init__()
        self.pending = False

    def apply(self, command):
        if not self.pending or command.clock_mhz not in TABLE_MHZ:
            super().apply(command)
        self.pending = True

    def status(self):
        self.pending = False
        return super().status()


class Fifo(HonestActuator):
    """Works through stale clocks, one after the other."""

    def __init__(self):
        super().__init__()
        self.queue = []

    def apply(self, command):
        if self.closed or command.clock_mhz not in TABLE_MHZ:
            super().apply(command)
        self.queue.append(command)

    def status(self):
        if self.queue:
            super().apply(self.queue.pop(0))
        return super().status()


class LastCallWins(HonestActuator):
    def apply(self, command):
        if command.clock_mhz in TABLE_MHZ:
            self.sequence = -1
        super().apply(command)


class SkipsRepetitions(HonestActuator):
    def apply(self, command):
        if command.clock_mhz != self.target_mhz or self.closed:
            super().apply(command)


class AcceptsAnything(HonestActuator):
    def apply(self, command):
        known = min(TABLE_MHZ, key=lambda mhz: abs(mhz - command.clock_mhz))
        super().apply(dataclasses.replace(command, clock_mhz=known))


class TakesNanForTheFastest(HonestActuator):
    def apply(self, command):
        if math.isnan(command.clock_mhz):
            command = dataclasses.replace(command, clock_mhz=TABLE_MHZ[-1])
        super().apply(command)


class RefusesTooLate(HonestActuator):
    """Takes the sequence number before it looks at the clock."""

    def apply(self, command):
        if not self.closed and command.clock_mhz not in TABLE_MHZ:
            self.sequence = command.sequence
        super().apply(command)


class ClosesOnce(HonestActuator):
    def close(self):
        if self.closed:
            raise RuntimeError("handle is closed")
        super().close()


class LeavesTheClock(HonestActuator):
    def close(self):
        self.closed = True


class WorksAfterClose(HonestActuator):
    def apply(self, command):
        self.closed = False
        super().apply(command)


class NoStatusAfterClose(HonestActuator):
    def status(self):
        if self.closed:
            raise RuntimeError("handle is closed")
        return super().status()


class NoStatusValue(HonestActuator):
    def status(self):
        return {"clock_mhz": self.clock_mhz, "health": Health.OK}


BROKEN = [
    ("has_the_methods_of_the_port", NoClose),
    ("table_is_ascending", Descending),
    ("table_is_ascending", EmptyTable),
    ("status_is_readable_from_the_start", StartsAtZero),
    ("status_is_readable_from_the_start", NoStatusValue),
    ("apply_reaches_the_clock", NeverMoves),
    ("apply_reaches_the_clock", ForgetsTheTarget),
    ("apply_does_not_block", Blocks),
    ("the_latest_command_wins", FirstWins),
    ("the_latest_command_wins", Fifo),
    ("stale_commands_are_ignored", LastCallWins),
    ("a_repeated_clock_renews", SkipsRepetitions),
    ("refuses_unsupported_clocks", AcceptsAnything),
    ("refuses_unsupported_clocks", TakesNanForTheFastest),
    ("refuses_unsupported_clocks", RefusesTooLate),
    ("close_may_be_called_twice", ClosesOnce),
    ("close_restores_the_default", LeavesTheClock),
    ("apply_after_close_is_refused", WorksAfterClose),
    ("status_after_close_is_readable", NoStatusAfterClose),
]
"""Pairs of the check that has to notice and what breaks its promise."""
