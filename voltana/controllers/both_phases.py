"""BothPhases: the clock of an instance that computes prompts and produces tokens.

Four demands on one clock, and the fastest wins:

- *prompts* in time: `OptimalAvailable` over the queue, on batches as they are (mixed with decode
  where the engine mixes them).
- *the batch* viable, and served at the least power: `EnergyOptimal` on cycles instead of
  iterations (`DecodeCycles`), for prompts take a share of the time, the more the slower the clock.
- *gaps* between tokens: the slowest level at which few enough of the gaps that were really there
  would have been late, and not at the fastest one (`LateGaps`); none once prompts have ceased.
- *this gap*: what has passed since the last tokens, with this iteration, all prompts that wait,
  and the decode iteration after them, has to fit the threshold at the chosen level, if it does at
  the fastest one.

A gap that no clock keeps asks for none: where prompts go first, what is left of it runs as slowly
as the prompts' deadlines and the batch allow. Prompts that come meanwhile share it, and so make no
other gap late. That ends while it is the means of requests that ask for a fast clock: these suffer
from long gaps, whatever runs the other ones.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from operator import itemgetter
from typing import TYPE_CHECKING, cast

import numpy as np

from voltana.controllers.cycles import DecodeCycles, PromptsBeside
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.held_back import held_clock
from voltana.controllers.held_level import HeldLevel
from voltana.controllers.late_gaps import LateGaps
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.this_gap import CHANGE_S, keeping_level
from voltana.controllers.token_gaps import TokenGaps
from voltana.levels import require_levels
from voltana.planning import certified_or_fastest, lowest_safe_index
from voltana.values import EMPTY_QUEUE, Binding, Decision, Load, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.controllers.memory import Memory
    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo
    from voltana.values import FloatArray, Forecast, Observation
    from voltana.viability_account import ViabilityAccount


class BothPhases:
    """Satisfies `voltana.ports.Controller` and `Plans`; its forecast is the one that is scored.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        power: Power model, taught by the loop from energy windows.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds and targets.
        memory: What the instance can hold; see `Memory`.
        max_power_w: Power limit of all devices of the instance.
        max_batch_tokens: Tokens of one batch, of prompts and of those that decode beside; larger
            ones are noted where they come.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        power: PowerPredictor,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        memory: Memory | None = None,
        max_power_w: float = math.inf,
        max_batch_tokens: float = math.inf,
    ) -> None:
        self.predictor = predictor
        self.power = power
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._max_power_w = max_power_w
        self._beside = PromptsBeside(predictor, max_batch_tokens)
        # What decodes is looked after here: to the law of prompts it takes time alone.
        alone = dataclasses.replace(slo, itl_s=sys.float_info.max, spending=1.0)
        self.prompts = OptimalAvailable(
            cast("Predictor", self._beside), power, self.levels_mhz, alone
        )
        self._cycles = DecodeCycles(predictor, self._levels)
        self.decode = EnergyOptimal(
            cast("Predictor", self._cycles),
            power,
            self.levels_mhz,
            slo,
            memory=memory,
            max_power_w=max_power_w,
            # What a batch shows late a gap shows at once: `LateGaps` has it in the next plan. A
            # rise that the first few prompts asked for would outlast what it was asked for by.
            held=HeldLevel(settling_s=0.0),
        )
        alpha = 1.0 - slo.itl_target
        self.gaps = TokenGaps(self._levels, alpha)
        self.late_gaps = LateGaps(
            self.gaps,
            slo.itl_s,
            alpha,
            owed_tokens=lambda: self.decode.envelope.owed_tokens,
        )
        self._gap_floor = len(self.levels_mhz) - 1
        self._ceased = False
        self._fastest = (1.0, 0.0)
        self._decode_floor, self._decode_binding = 0, Binding.NONE
        self._last_gap_s = math.nan
        self._told = False

    def viability_account(self) -> ViabilityAccount:
        """See `voltana.ports.KeepsViability`."""
        return self.decode.viability_account()

    def plan(self, now_s: float) -> None:
        """See `voltana.ports.Plans`."""
        gaps, late = self.gaps, self.late_gaps
        if gaps.gaps:
            share = gaps.prompts_share()
            requests, tokens = gaps.mean_batch()
            once = self.predictor.forecast(Load.decode(requests, tokens), self._levels).mean_s
            twice = self.predictor.forecast(Load.decode(2 * requests, 2 * tokens), self._levels)
            batch_s = np.maximum(twice.mean_s - once, 0.0)
            growth = late.growth(share, batch_s)
            self._fastest = (float(growth[-1]), float(batch_s[-1]))
            lost = late.late_at_fastest(*self._fastest)
            allowed = late.allowed(*self._fastest)
            self._gap_floor = late.lowest(growth, batch_s, allowed, lost)
            self._ceased = gaps.prompts_ceased
            if self._ceased:
                share = np.zeros(len(share))
            self._cycles.stretch = 1.0 / np.maximum(1.0 - share, sys.float_info.epsilon)
        self.decode.plan(now_s)

    def request_ended(self, *, late: bool | None) -> None:
        """See `voltana.ports.HearsEnds`: how long answers are; gaps say themselves what is late."""
        del late
        self.decode.envelope.ended()

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, now_s = observation.load, observation.now_s
        self._note_end(observation)
        self._beside.note(load)
        self._ceased &= not load.prefill_tokens
        floor = 0 if self._ceased else self._gap_floor
        decision = self.prompts.decide(dataclasses.replace(observation, slack_s=math.nan))
        forecast = decision.forecast
        if forecast is None:  # idle
            self.gaps.begin(load, self._levels, None, now_s)
            self.decode.decide(observation)
            return decision
        decode_s = self._decide_decode(observation, forecast)
        rest_s = self._rest_s(observation)
        left_s = self._left_s(observation)
        mean_s = self._held_s(load, forecast.mean_s)
        pending_s = mean_s + rest_s
        keeping = keeping_level(
            forecast.upper_s + rest_s,
            pending_s,
            left_s,
            levels_mhz=self._levels,
            clock_mhz=observation.target_mhz,
        )
        lost = (
            keeping is None
            and not self.late_gaps.means_bind
            and not load.decode_requests
            and bool(pending_s[floor] > CHANGE_S + self.gaps.decode_row_s[floor])
        )
        self.gaps.begin(
            load,
            mean_s,
            None if decode_s is None else self._held_s(_decode_of(load), decode_s),
            now_s,
            level=max(floor, self._decode_floor),
            lost=lost,
        )
        wishes = [(self._decode_floor, self._decode_binding)]
        if not lost and (load.decode_requests or left_s < math.inf):  # else nobody's gap is longer
            wishes.append((floor, Binding.PACE))
        if keeping is not None and left_s < math.inf:
            wishes.append((keeping, Binding.THRESHOLD))
        return self._fastest_of(
            decision,
            forecast,
            prompts=load.prefill_tokens > 0,
            wishes=wishes,
            left_s=left_s - float(rest_s[-1]),
        )

    def _note_end(self, observation: Observation) -> None:
        """Close the gap that has ended with the last iteration."""
        ended = observation.ended
        outcome = ended[-1] if ended else None
        if self.gaps.end(outcome, observation.target_mhz, observation.now_s) and self.gaps.gaps:
            gap_s, lost = self.late_gaps.last(self._fastest)
            # What no clock keeps is not for a law of clocks to learn from.
            self._last_gap_s = min(gap_s, self._slo.itl_s) if lost else gap_s

    def _decide_decode(self, observation: Observation, forecast: Forecast) -> FloatArray | None:
        """Ask the law of decode where tokens are produced; what they alone take at every level."""
        load = observation.load
        if not load.decode_requests:
            return None
        alone = _decode_of(load)
        mixed = load.prefill_tokens > 0
        wanted = self.decode.decide(
            dataclasses.replace(
                observation,
                load=alone,
                queue=EMPTY_QUEUE if mixed else observation.queue,
                last_latency_s=self._last_gap_s,
                slack_s=math.nan,
            )
        )
        self._decode_floor = int(self._levels.searchsorted(wanted.clock_mhz - 1e-6))
        self._decode_binding = wanted.binding
        if not mixed:
            return forecast.mean_s
        return self.predictor.forecast(alone, self._levels).mean_s

    def _held_s(self, load: Load, mean_s: FloatArray) -> FloatArray:
        """What boards at their power limit really deliver: prompts are what they lower it for."""
        if not self._max_power_w < math.inf:
            return mean_s
        held = held_clock(self.power, load, self._levels, self._max_power_w)
        return mean_s if held is None else np.maximum(mean_s, held.least_s(mean_s))

    def _fastest_of(
        self,
        decision: Decision,
        forecast: Forecast,
        *,
        prompts: bool,
        wishes: list[tuple[int, Binding]],
        left_s: float,
    ) -> Decision:
        """The fastest of what the demands ask for.

        Args:
            decision: What the law of prompts says.
            forecast: Of the iteration.
            prompts: Whether it computes any.
            wishes: Levels that are asked for already, and why.
            left_s: What is left of the gap threshold for it at the fastest level.
        """
        budget_s = self._slo.itl_s
        if prompts:
            budget_s = decision.budget_s
            wished = int(self._levels.searchsorted(decision.clock_mhz - 1e-6))
            wishes.append((wished, decision.binding))
        if forecast.upper_s[-1] <= left_s:
            budget_s = min(budget_s, left_s)
        chosen, binding = max(wishes, key=itemgetter(0))
        if prompts and decision.status is Status.VOID:  # a deadline is lost: nothing is promised
            clock_mhz, reason = self.levels_mhz[chosen], decision.reason
            return Decision(clock_mhz=clock_mhz, reason=reason, forecast=forecast, binding=binding)
        safe = lowest_safe_index(forecast.upper_s[chosen:], budget_s)
        if safe is None:
            return certified_or_fastest(forecast, None, budget_s, binding)
        return certified_or_fastest(
            forecast, chosen + safe, budget_s, Binding.THRESHOLD if safe else binding
        )

    def _left_s(self, observation: Observation) -> float:
        """What is left of the threshold for those that wait for their next token."""
        told = not math.isnan(observation.slack_s)
        self._told |= told
        if told:
            return observation.slack_s
        if self._told or not self.gaps.waits:
            return math.inf
        return self._slo.itl_s - self.gaps.elapsed_s

    def _rest_s(self, observation: Observation) -> FloatArray:
        """What comes after this iteration and before their next token, at every level."""
        if observation.load.decode_requests:
            return np.zeros(len(self._levels))
        rest_s = self.gaps.decode_row_s.copy()
        if observation.queue.deadlines:
            last = observation.queue.deadlines[-1]
            batches = max(last.cumulative_batches, 1)
            mean = Load(
                prefill_tokens=max(last.cumulative_tokens // batches, 1),
                prefill_attended_pairs=last.cumulative_attended_pairs / batches,
            )
            rest_s += batches * self.predictor.forecast(mean, self._levels).mean_s
        return rest_s

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"BothPhases({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"


def _decode_of(load: Load) -> Load:
    """What of it decodes."""
    return Load.decode(load.decode_requests, load.decode_kv_tokens)
