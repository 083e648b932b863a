"""A Gymnasium environment over the simulated cluster, for those who train a policy of their own.

Importing this registers ``voltana/Cluster-v0``. Needs the extra ``voltana[gym]``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.errors import MissingExtraError, invalid
from voltana.levels import EvenlySpaced
from voltana.plant.agent import LateMeter, Steering
from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.slo import Slo
from voltana.values import Role

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:  # pragma: no cover  (the extra is part of the tests' environment)
    raise MissingExtraError(
        "gymnasium is not installed: voltana.plant.gym_env needs it. "
        "Run: pip install 'voltana[gym]'"
    ) from error

if TYPE_CHECKING:
    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

ENV_ID = "voltana/Cluster-v0"
FEATURES = ("clock", "requests", "kv", "queued requests", "queued tokens", "wait", "power", "busy")
"""Of each instance, in the order of the observation's columns."""

HIGHEST = 10.0
"""Features are cut here."""

LEAST_REQUESTS = 20
"""Mean number of requests in an episode; by chance none at all come once in 5e8 episodes."""

_REQUESTS = 256.0
_DEFAULT_SLO = Slo(ttft_s=0.6, itl_s=0.065)


class ClusterEnv(gymnasium.Env["Array", "Array"]):
    """A cluster that serves requests while an agent sets its clocks.

    *Action* (MultiDiscrete): a level for each instance, prefill first and colocated last, 0 the
    slowest; with `routing` one number more, the decode (or, without any, colocated) instance of the
    requests that arrive until the next step,
    or the number of these instances to leave it to the fewest requests. A clock takes effect at
    an instance's next iteration, and then settles.

    *Observation* (Box, shape (instances, features), in 0 to 10): `FEATURES`; clock and power over
    their maximum, requests over 256, KV cache over its capacity, queued tokens over one prefill
    batch, the longest wait over the TTFT threshold, and the share of the last step spent computing.

    *Reward*: minus the joules of the step, minus `ttft_penalty_j` for each request whose TTFT
    threshold passed in it without a first token, minus `itl_penalty_j` for each token later than
    the ITL threshold.

    An episode is truncated after `duration_s` of simulated time; it never terminates. The seed of
    `reset` determines arrivals and noise.

    Args:
        hardware: Name of a hardware profile, or a file.
        model: Name of a model profile, or a file.
        prefill: Prefill instances; None takes 1, or none where there are colocated ones.
        decode: Decode instances, likewise.
        colocated: Instances for both phases; alone unless pairs are named.
        workload: Named request lengths.
        rate_rps: Mean arrival rate.
        duration_s: Simulated time of an episode.
        period_s: Simulated time of a step.
        levels: Levels to choose from, evenly spaced over the upper 60 % of the clocks.
        routing: Whether the agent routes decode too.
        slo: The thresholds.
        ttft_penalty_j: See above.
        itl_penalty_j: See above.

    Raises:
        ConfigError: If an argument is outside its range, or a name is unknown.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(
        self,
        *,
        hardware: str = "a100-sxm4-80gb",
        model: str = "llama-3.1-8b",
        prefill: int | None = None,
        decode: int | None = None,
        colocated: int = 0,
        workload: str = "sharegpt",
        rate_rps: float = 20.0,
        duration_s: float = 60.0,
        period_s: float = 0.2,
        levels: int = 8,
        routing: bool = False,
        slo: Slo = _DEFAULT_SLO,
        ttft_penalty_j: float = 500.0,
        itl_penalty_j: float = 5.0,
    ) -> None:
        if not 0 < period_s <= duration_s < math.inf:
            raise invalid("period_s", period_s, "above 0 s, up to duration_s", "0.2 is usual.")
        if not (ttft_penalty_j >= 0 and itl_penalty_j >= 0):
            raise invalid(
                "ttft_penalty_j, itl_penalty_j", (ttft_penalty_j, itl_penalty_j), "0 or more",
                "500 J and 5 J are the defaults.",
            )  # fmt: skip
        if levels < 1:
            raise invalid("levels", levels, "1 or more", "8 is the default.")
        if not rate_rps * duration_s >= LEAST_REQUESTS:
            raise invalid(
                "rate_rps * duration_s", rate_rps * duration_s,
                f"at least {LEAST_REQUESTS} requests an episode", "Raise the rate or the duration.",
            )  # fmt: skip
        make_workload(workload, rate_rps, duration_s, 0)  # refuses what reset() could not make
        loaded, profile = load_hardware(hardware), load_model(model)
        self._cluster = ClusterSpec(
            hardware=loaded,
            model=profile,
            slo=slo,
            tensor_parallel=profile.default_tensor_parallel,
            prefill=int(not colocated) if prefill is None else prefill,
            decode=int(not colocated) if decode is None else decode,
            colocated=colocated,
        )
        self._plant = PlantModel(loaded, profile, profile.default_tensor_parallel)
        table_mhz = loaded.clocks_mhz
        self.levels_mhz = EvenlySpaced(levels, min_mhz=0.4 * table_mhz[-1]).levels(table_mhz)
        self._max_power_w = loaded.tdp_w * profile.default_tensor_parallel
        self._workload, self._rate_rps = workload, rate_rps
        self._duration_s, self._period_s = duration_s, period_s
        self._penalties_j = (ttft_penalty_j, itl_penalty_j)
        self._routing = routing
        self._slo = slo
        count = self._cluster.instances
        self._routed = self._cluster.decode or colocated
        choices = [len(self.levels_mhz)] * count + ([self._routed + 1] if routing else [])
        self.action_space = spaces.MultiDiscrete(choices)
        self.observation_space = spaces.Box(
            0.0, HIGHEST, shape=(count, len(FEATURES)), dtype=np.float32
        )
        self._simulation: Simulation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; all clocks are the fastest."""
        super().reset(seed=seed, options=options)
        drawn = int(self.np_random.integers(2**31))
        trace = make_workload(self._workload, self._rate_rps, self._duration_s, drawn)
        role = Role.DECODE if self._cluster.decode else Role.COLOCATED
        self._steering = Steering(self.levels_mhz, role)
        self._simulation = Simulation(
            self._cluster, self._steering.policy(), trace, seed=drawn, plant=self._plant
        )
        self._late = LateMeter(self._simulation, self._slo)
        self._steps = 0
        self._energy_j = 0.0
        self._busy_s = [0.0] * len(self._simulation.instances)
        return self._observe(self._simulation), self._info(0.0, 0, 0)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Set the clocks and simulate `period_s`.

        Raises:
            gymnasium.error.ResetNeeded: Before the first `reset`.
            gymnasium.error.InvalidAction: If the action is not in the action space.
        """
        simulation = self._simulation
        if simulation is None:
            raise gymnasium.error.ResetNeeded("step() came before reset(): call reset() first.")
        action = np.asarray(action)
        if not self.action_space.contains(action):
            raise gymnasium.error.InvalidAction(
                f"action = {action!r} is not allowed: must be whole numbers in "
                f"{self.action_space}. Levels count from 0."
            )
        for controller, level in zip(self._steering.controllers, action, strict=False):
            controller.clock_mhz = self.levels_mhz[int(level)]
        if self._routing:
            target = int(action[-1])
            self._steering.decode_router.target = target if target < self._routed else None
        for instance in simulation.instances:
            if not instance.busy:
                instance.runner.idle(simulation.now_s)
        self._steps += 1
        end_s = min(self._steps * self._period_s, self._duration_s)
        simulation.extend_to(end_s)
        total_j = simulation.energy_j()
        spent_j, self._energy_j = total_j - self._energy_j, total_j
        late_requests, late_tokens = self._late.requests(), self._late.tokens()
        ttft_penalty_j, itl_penalty_j = self._penalties_j
        reward = -spent_j - ttft_penalty_j * late_requests - itl_penalty_j * late_tokens
        truncated = end_s >= self._duration_s
        info = self._info(spent_j, late_requests, late_tokens)
        return self._observe(simulation), float(reward), False, truncated, info

    def _observe(self, simulation: Simulation) -> Array:
        rows = []
        for index, instance in enumerate(simulation.instances):
            state, board = instance.state(), instance.runner.board
            busy_s = instance.runner.busy_s - self._busy_s[index]
            self._busy_s[index] = instance.runner.busy_s
            rows.append(
                (
                    state.clock_mhz / self._cluster.hardware.clocks_mhz[-1],
                    state.running_requests / _REQUESTS,
                    state.kv_tokens / self._cluster.kv_capacity_tokens,
                    state.queued_requests / _REQUESTS,
                    state.queued_tokens / self._cluster.engine.max_prefill_tokens,
                    state.oldest_wait_s / self._slo.ttft_s,
                    board.power_w / self._max_power_w,
                    busy_s / self._period_s,
                )
            )
        return np.clip(np.array(rows, dtype=np.float32), 0.0, HIGHEST)

    def _info(self, energy_j: float, late_requests: int, late_tokens: int) -> dict[str, Any]:
        return {
            "energy_j": energy_j,
            "late_requests": late_requests,
            "late_tokens": late_tokens,
            "finished": 0 if self._simulation is None else self._simulation.finished,
            "instances": tuple(
                name for role in Role for name in self._cluster.instance_names(role)
            ),
        }


if ENV_ID not in gymnasium.registry:
    gymnasium.register(id=ENV_ID, entry_point=f"{__name__}:{ClusterEnv.__name__}")
