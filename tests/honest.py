"""Small components that keep every contract; tests break them one promise at a time."""

from __future__ import annotations

import math

import numpy as np

from voltana.errors import ActuatorError, invalid
from voltana.planning import lowest_safe_decision
from voltana.values import (
    ActuatorStatus,
    Decision,
    Forecast,
    Phase,
)

TABLE_MHZ = tuple(float(mhz) for mhz in range(210, 1411, 15))


def features(load, clocks_mhz):
    """Shape (n, 10): five parts of the load, each as it is and scaled by the clock."""
    clocks_mhz = np.asarray(clocks_mhz, dtype=float)
    parts = np.array(
        [
            1.0,
            load.prefill_tokens / 1e3,
            load.prefill_attended_pairs / 1e6,
            load.decode_requests / 1e2,
            load.decode_kv_tokens / 1e5,
        ]
    )
    slow = 1410.0 / clocks_mhz
    return np.hstack([np.tile(parts, (len(clocks_mhz), 1)), slow[:, None] * parts])


def usable(outcome):
    return 0 < outcome.latency_s < 100 and 0 < outcome.clock_mhz < math.inf


class HonestSnapshot:
    def __init__(self, weights, seen):
        self.weights = None if weights is None else np.array(weights)
        self.seen = seen

    def forecast(self, load, clocks_mhz):
        count = len(clocks_mhz)
        if self.weights is None:
            unknown = np.full(count, np.inf)
            return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown.copy())
        # Without BLAS: a row's result must not depend on how many rows there are.
        mean_s = np.maximum((features(load, clocks_mhz) * self.weights).sum(axis=1), 1e-6)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=1.1 * mean_s)

    def to_dict(self):
        weights = None if self.weights is None else self.weights.tolist()
        return {"weights": weights, "seen": self.seen}


class HonestPredictor:
    """Ridge regression over all labels, kept as sums."""

    def __init__(self):
        self.gram = np.eye(10) * 1e-6
        self.moment = np.zeros(10)
        self.weights = None
        self.seen = 0

    def forecast(self, load, clocks_mhz):
        return HonestSnapshot(self.weights, self.seen).forecast(load, clocks_mhz)

    def learn(self, outcome):
        if not usable(outcome):
            return
        x = features(outcome.load, [outcome.clock_mhz])[0]
        self.gram += np.outer(x, x) / outcome.latency_s
        self.moment += x
        self.seen += 1
        if self.seen >= 10:
            self.weights = np.linalg.solve(self.gram, self.moment)

    def snapshot(self):
        return HonestSnapshot(self.weights, self.seen)


class HonestPower:
    """Ridge regression of watts over phase and clock, kept as sums."""

    def __init__(self):
        self.gram = np.eye(5) * 1e-6
        self.moment = np.zeros(5)

    def forecast_w(self, load, clocks_mhz):
        if not self.moment.any():
            return np.full(len(clocks_mhz), np.inf)
        weights = np.linalg.solve(self.gram, self.moment)
        return np.maximum((self.features(load, clocks_mhz) * weights).sum(axis=1), 0.0)

    def learn_window(self, energy_j, exposures):
        duration_s = sum(e.duration_s for e in exposures)
        if duration_s > 0 and 0 <= energy_j < 1e6:
            x = sum(self.features(e.load, [e.clock_mhz])[0] * e.duration_s for e in exposures)
            self.gram += np.outer(x, x) / duration_s
            self.moment += x * energy_j / duration_s

    def features(self, load, clocks_mhz):
        share = np.asarray(clocks_mhz) / 1410.0
        prefill, decode = bool(load.prefill_tokens), bool(load.decode_requests)
        one = np.ones(len(share))
        return np.stack(
            [one, prefill * one, decode * one, prefill * share**3, decode * share**3], axis=1
        )


class HonestController:
    """The lowest level that is safe for a threshold of 60 ms (decode) or 600 ms (prefill)."""

    def __init__(self):
        self.predictor = HonestPredictor()
        self.levels_mhz = np.array(TABLE_MHZ)

    def decide(self, observation):
        load = observation.load
        if load.phase is Phase.IDLE:
            return Decision(clock_mhz=TABLE_MHZ[0], reason="idle")
        budget_s = 0.06 if load.decode_requests else 0.6 - observation.queue.oldest_wait_s
        return lowest_safe_decision(self.predictor.forecast(load, self.levels_mhz), budget_s)


class HonestRouter:
    """The least in flight, reservations included; ties go to the first."""

    def route(self, request, candidates):
        return min(
            candidates,
            key=lambda c: c.state.running_requests + c.state.queued_requests + c.reserved.requests,
        ).instance


class HonestActuator:
    """A device that obeys at once."""

    def __init__(self):
        self.clock_mhz = TABLE_MHZ[-1]
        self.target_mhz = math.nan
        self.sequence = -1
        self.closed = False

    def table(self):
        return TABLE_MHZ

    def apply(self, command):
        if self.closed:
            raise ActuatorError("closed")
        if command.clock_mhz not in TABLE_MHZ:
            raise invalid("clock_mhz", command.clock_mhz, "in table()", "Take one of the table.")
        if command.sequence > self.sequence:
            self.sequence = command.sequence
            self.target_mhz = self.clock_mhz = command.clock_mhz

    def status(self):
        return ActuatorStatus(
            clock_mhz=self.clock_mhz, target_mhz=self.target_mhz, sequence=self.sequence
        )

    def close(self):
        self.closed = True
        self.clock_mhz = TABLE_MHZ[-1]


class HonestLevels:
    """The faster half of what a device supports."""

    def levels(self, table_mhz):
        if not table_mhz:
            raise invalid("table_mhz", (), "at least one clock", "Query the device again.")
        table = sorted(map(float, table_mhz))
        return tuple(table[len(table) // 2 :])
