"""Controllers: what they choose, what they promise, and what their wrappers do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.ecofreq_v01 import EcoFreqV01
from voltana.controllers.fixed import FixedClock
from voltana.controllers.pid import Pid, PidGains
from voltana.controllers.rate_limit import RateLimited
from voltana.controllers.supervisor import Supervised
from voltana.controllers.window import WindowGovernor
from voltana.errors import ConfigError
from voltana.levels import A100_CLOCKS_MHZ
from voltana.slo import Slo
from voltana.testing import check_controller, samples
from voltana.testing import strategies as vst
from voltana.testing.samples import LinearSnapshot, observation
from voltana.timebase import ManualTime
from voltana.values import Decision, Load, Queue, Status

SLO = Slo(ttft_s=0.6, itl_s=0.05)
LEVELS = tuple(float(mhz) for mhz in range(705, 1411, 15))
TWO = (1005.0, 1410.0)
MODEL = LinearSnapshot()
DECODE = Load.decode(64, 40_000)


class Scripted:
    """Asks for one clock after the other, then for the last one for ever."""

    levels_mhz = LEVELS

    def __init__(self, *clocks_mhz):
        self.clocks_mhz = list(clocks_mhz)

    def decide(self, observation):
        clock = self.clocks_mhz.pop(0) if len(self.clocks_mhz) > 1 else self.clocks_mhz[0]
        if isinstance(clock, Exception):
            raise clock
        return clock if clock is None else Decision(clock_mhz=clock, reason="scripted")

    def __repr__(self):
        return "Scripted()"


FACTORIES = {
    "fixed": lambda: FixedClock.max(A100_CLOCKS_MHZ),
    "ecofreq": lambda: EcoFreq(MODEL, LEVELS, SLO, idle_after_s=1.0),
    "ecofreq-v0.1": lambda: EcoFreqV01(MODEL, TWO, SLO, median_of=3),
    "window": lambda: WindowGovernor(MODEL, LEVELS, SLO),
    "pid": lambda: Pid(LEVELS, SLO),
    "rate-limited": lambda: RateLimited(EcoFreq(MODEL, LEVELS, SLO), dwell_s=0.5, max_step_mhz=60),
    "supervised": lambda: Supervised(
        RateLimited(EcoFreq(MODEL, LEVELS, SLO), dwell_s=0.5), fallback=FixedClock(1410.0)
    ),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_every_controller_keeps_its_contract(name):
    check_controller(FACTORIES[name]).raise_if_failed()


class TestEcoFreq:
    @given(vst.observations())
    def test_chooses_a_level_and_certifies_only_what_fits(self, seen):
        decision = EcoFreq(MODEL, LEVELS, SLO).decide(seen)
        assert decision.clock_mhz in LEVELS
        if decision.status is Status.CERTIFIED:
            upper_s = decision.forecast.upper_s
            index = LEVELS.index(decision.clock_mhz)
            assert upper_s[index] <= decision.budget_s
            assert (upper_s[:index] > decision.budget_s).all()
        elif decision.status is Status.SATURATED:
            assert (decision.forecast.upper_s > decision.budget_s).all()
            assert decision.clock_mhz == LEVELS[-1]

    @given(
        st.integers(1, 600), st.integers(1, 400_000), st.integers(0, 200), st.integers(0, 100_000)
    )
    def test_a_larger_decode_load_never_gets_a_slower_clock(self, batch, kv, more, more_kv):
        def clock_mhz(load):
            return EcoFreq(MODEL, LEVELS, SLO).decide(observation(load)).clock_mhz

        assert clock_mhz(Load.decode(batch + more, kv + more_kv)) >= clock_mhz(
            Load.decode(batch, kv)
        )

    @given(st.integers(1, 12_000), st.floats(0, 1), st.floats(0, 1))
    def test_a_longer_wait_never_gets_a_slower_clock(self, tokens, wait_s, more_s):
        load = Load.prefill([(tokens, 0)])
        clocks = [
            EcoFreq(MODEL, LEVELS, SLO)
            .decide(observation(load, queue=Queue(oldest_wait_s=seconds)))
            .clock_mhz
            for seconds in (wait_s, wait_s + more_s)
        ]
        assert clocks[0] <= clocks[1]

    def test_budgets_follow_the_phase(self):
        def budget_s(load):
            seen = observation(load, queue=Queue(oldest_wait_s=0.2))
            return EcoFreq(MODEL, LEVELS, SLO).decide(seen).budget_s

        assert budget_s(Load.decode(8, 800)) == SLO.itl_s
        assert budget_s(Load.prefill([(100, 0)])) == pytest.approx(0.4)
        mixed = Load(prefill_tokens=10, prefill_attended_pairs=55.0, decode_requests=1)
        assert budget_s(mixed) == SLO.itl_s

    def test_a_reserve_is_taken_off_the_prefill_budget_alone(self):
        controller = EcoFreq(MODEL, LEVELS, SLO, ttft_share=0.75)
        waited = observation(Load.prefill([(100, 0)]), queue=Queue(oldest_wait_s=0.2))
        assert controller.decide(waited).budget_s == pytest.approx(0.6 * 0.75 - 0.2)
        assert controller.decide(observation(DECODE)).budget_s == SLO.itl_s
        with pytest.raises(ConfigError, match=r"ttft_share = 0\.0"):
            EcoFreq(MODEL, LEVELS, SLO, ttft_share=0.0)

    @pytest.mark.parametrize("load", [Load.prefill([(64, 0)]), DECODE])
    def test_waiting_requests_mean_the_fastest_level_in_either_phase(self, load):
        seen = observation(load, queue=Queue(requests=1, tokens=10))
        assert EcoFreq(MODEL, LEVELS, SLO).decide(seen).clock_mhz == LEVELS[-1]
        relaxed = EcoFreq(MODEL, LEVELS, SLO, queue_rule=False)
        assert relaxed.decide(seen).clock_mhz == LEVELS[0]

    def test_idle_stays_or_waits_slowly(self):
        staying = EcoFreq(MODEL, LEVELS, SLO)
        heavy = observation(Load.decode(2000, 1_000_000), 1.0)
        assert staying.decide(heavy).clock_mhz == LEVELS[-1]
        assert staying.decide(observation(Load(), 99.0)).clock_mhz == LEVELS[-1]
        waiting = EcoFreq(MODEL, LEVELS, SLO, idle_after_s=2.0, idle_mhz=900.0)
        waiting.decide(heavy)
        assert waiting.decide(observation(Load(), 2.9)).clock_mhz == LEVELS[-1]
        assert waiting.decide(observation(Load(), 3.0)).clock_mhz == 900.0

    @pytest.mark.parametrize("levels", [(), (1410.0, 1005.0), (1005.0, 1005.0)])
    def test_refuses_levels_that_do_not_ascend(self, levels):
        with pytest.raises(ConfigError, match="levels_mhz"):
            EcoFreq(MODEL, levels, SLO)


class TestEcoFreqV01:
    def decide(self, load, *, queue=None, now_s=10.0, **options):
        controller = EcoFreqV01(MODEL, TWO, SLO, **options)
        return controller.decide(observation(load, now_s, queue=queue or Queue())).clock_mhz

    def test_starts_low_and_returns_there_after_five_seconds_of_silence(self):
        controller = EcoFreqV01(MODEL, TWO, SLO)
        assert controller.decide(observation(Load(), 0.0)).clock_mhz == TWO[0]
        heavy = observation(Load.decode(2000, 1_000_000), 1.0)
        assert controller.decide(heavy).clock_mhz == TWO[1]
        assert controller.decide(observation(Load(), 6.0)).clock_mhz == TWO[1]
        assert controller.decide(observation(Load(), 6.01)).clock_mhz == TWO[0]

    def test_prompts_that_still_wait_mean_the_maximum(self):
        prompt = Load.prefill([(64, 0)])
        assert self.decide(prompt) == TWO[0]
        assert self.decide(prompt, queue=Queue(requests=1, tokens=1)) == TWO[1]

    def test_the_longest_wait_is_taken_off_the_prefill_budget(self):
        prompt = Load.prefill([(2048, 0)])
        assert self.decide(prompt, queue=Queue(oldest_wait_s=0.1)) == TWO[0]
        assert self.decide(prompt, queue=Queue(oldest_wait_s=0.55)) == TWO[1]

    def test_the_mean_has_to_fit_and_no_bound(self):
        mean_s = samples.linear_latency_s(DECODE, TWO[0])
        tight = Slo(ttft_s=0.6, itl_s=mean_s * 1.001)
        assert EcoFreqV01(MODEL, TWO, tight).decide(observation(DECODE)).clock_mhz == TWO[0]
        tighter = Slo(ttft_s=0.6, itl_s=mean_s * 0.999)
        assert EcoFreqV01(MODEL, TWO, tighter).decide(observation(DECODE)).clock_mhz == TWO[1]

    def test_the_margin_loosens_the_threshold(self):
        mean_s = samples.linear_latency_s(DECODE, TWO[0])
        slo = Slo(ttft_s=0.6, itl_s=mean_s / 1.3)
        strict, loose = (EcoFreqV01(MODEL, TWO, slo, slo_margin=m) for m in (0.0, 0.35))
        assert strict.decide(observation(DECODE)).clock_mhz == TWO[1]
        assert loose.decide(observation(DECODE)).clock_mhz == TWO[0]

    def test_looks_up_the_median_of_the_iterations_since_its_last_step(self):
        controller = EcoFreqV01(MODEL, TWO, SLO, median_of=3)
        light, heavy = Load.decode(8, 4_000), Load.decode(1500, 600_000)
        clocks = [
            controller.decide(observation(load)).clock_mhz for load in (light, light, heavy, heavy)
        ]
        assert clocks == [TWO[0], TWO[0], TWO[0], TWO[1]]

    @given(vst.observations())
    def test_promises_nothing(self, seen):
        decision = EcoFreqV01(MODEL, TWO, SLO).decide(seen)
        assert decision.clock_mhz in TWO
        assert (decision.status, decision.forecast) == (Status.VOID, None)


class TestWindow:
    def test_keeps_its_clock_within_a_window(self):
        governor = WindowGovernor(MODEL, LEVELS, SLO)
        loads = (Load.decode(1, 10), Load.decode(900, 400_000), Load())
        clocks = {governor.decide(observation(loads[i % 3], 0.1 * i)).clock_mhz for i in range(50)}
        assert clocks == {LEVELS[-1]}

    def test_takes_the_lowest_level_that_serves_the_heaviest_load_seen(self):
        governor = WindowGovernor(MODEL, LEVELS, SLO)
        for now_s in (0.0, 1.0, 2.0):
            governor.decide(observation(Load.decode(8, 800), now_s))
        heavy = Load.decode(900, 150_000)
        governor.decide(observation(heavy, 3.0))
        chosen = governor.decide(observation(Load.decode(8, 800), 5.0)).clock_mhz
        fitting = [mhz for mhz in LEVELS if samples.linear_latency_s(heavy, mhz) <= SLO.itl_s]
        assert LEVELS[0] < chosen == fitting[0]

    def test_too_much_prefill_work_means_a_faster_level(self):
        def clock_after(batches):
            governor = WindowGovernor(MODEL, LEVELS, SLO)
            for i in range(batches):
                governor.decide(observation(Load.prefill([(2000, 0)]), 4.9 * i / batches))
            return governor.decide(observation(Load(), 5.1)).clock_mhz

        clocks = [clock_after(n) for n in (1, 25, 35, 200)]
        assert clocks == sorted(clocks)
        assert clocks[0] == LEVELS[0]
        assert LEVELS[0] < clocks[2] < LEVELS[-1]
        assert clocks[-1] == LEVELS[-1]

    def test_a_silent_window_means_the_lowest_level(self):
        governor = WindowGovernor(MODEL, LEVELS, SLO)
        governor.decide(observation(Load(), 0.0))
        assert governor.decide(observation(Load(), 30.0)).clock_mhz == LEVELS[0]


class TestPid:
    def run(self, pid, latencies_s, step_s=0.05, start_s=0.0):
        return [
            pid.decide(
                observation(DECODE, start_s + step_s * i, last_latency_s=latency_s)
            ).clock_mhz
            for i, latency_s in enumerate(latencies_s)
        ]

    def test_settles_at_the_set_point_of_a_simple_plant(self):
        pid, latency_s, now_s = Pid(LEVELS, SLO), 0.03, 0.0
        for _ in range(2000):
            now_s += latency_s
            seen = observation(DECODE, now_s, last_latency_s=latency_s)
            latency_s = 0.038 * 1000.0 / pid.decide(seen).clock_mhz
        assert latency_s == pytest.approx(0.85 * SLO.itl_s, rel=0.03)

    @given(vst.latency_sequences())
    def test_stays_within_its_levels(self, latencies_s):
        assert set(self.run(Pid(LEVELS, SLO), latencies_s)) <= set(LEVELS)

    @settings(max_examples=20)
    @given(st.integers(200, 2000), st.sampled_from(["slow", "fast"]), st.floats(0.0, 300.0))
    def test_does_not_wind_up(self, samples_count, kind, proportional_mhz):
        """However long it was saturated, it leaves saturation as soon as the error turns round."""
        latency_s, opposite_s = (1.0, 0.0005) if kind == "slow" else (0.0005, 1.0)
        gains = PidGains(proportional_mhz=proportional_mhz, integral_mhz_per_s=600.0)
        pid = Pid(LEVELS, SLO, gains=gains)
        saturated = self.run(pid, [latency_s] * samples_count)[-1]
        assert saturated == (LEVELS[-1] if kind == "slow" else LEVELS[0])
        end_s = 0.05 * samples_count
        turned = self.run(pid, [opposite_s] * 4, start_s=end_s)
        assert turned[-1] != saturated

    def test_a_long_silence_does_not_integrate(self):
        pids = [Pid(LEVELS, SLO, max_gap_s=0.5) for _ in range(2)]
        clocks = []
        for pid, gap_s in zip(pids, (0.5, 500.0), strict=True):
            self.run(pid, [0.0005] * 3)
            late = observation(DECODE, 0.1 + gap_s, last_latency_s=0.04)
            clocks.append(pid.decide(late).clock_mhz)
        assert clocks[0] == clocks[1]

    def test_a_repeated_time_integrates_nothing(self):
        pid = Pid(LEVELS, SLO, gains=PidGains(proportional_mhz=0, integral_mhz_per_s=1e6))
        assert set(self.run(pid, [0.0005] * 20, step_s=0.0)) == {LEVELS[-1]}

    def test_the_derivative_acts_on_change_alone(self):
        gains = PidGains(proportional_mhz=0, integral_mhz_per_s=0, derivative_mhz_s=10.0)
        pid = Pid(LEVELS, SLO, gains=gains)
        falling = self.run(pid, [0.04, 0.03, 0.03])
        assert falling[0] == falling[2] == LEVELS[-1] > falling[1]

    def test_without_a_latency_it_stays(self):
        pid = Pid(LEVELS, SLO)
        blind = observation(DECODE, last_latency_s=math.nan)
        assert pid.decide(blind).clock_mhz == LEVELS[-1]

    @pytest.mark.parametrize("gain", [-1.0, math.nan, math.inf])
    def test_refuses_gains_that_are_negative_or_not_finite(self, gain):
        with pytest.raises(ConfigError, match="proportional_mhz"):
            PidGains(proportional_mhz=gain)


class TestRateLimited:
    @given(
        st.lists(st.sampled_from(LEVELS), min_size=2, max_size=60),
        st.sampled_from([15.0, 60.0, math.inf]),
        st.floats(0.0, 1.0),
        st.floats(0.01, 0.6),
    )
    def test_rises_at_once_and_falls_slowly(self, wanted, max_step_mhz, dwell_s, step_s):
        limited = RateLimited(Scripted(*wanted), dwell_s=dwell_s, max_step_mhz=max_step_mhz)
        target_mhz, changed_at_s = math.nan, 0.0
        for i, clock_mhz in enumerate(wanted):
            now_s = i * step_s
            chosen = limited.decide(observation(DECODE, now_s, target_mhz=target_mhz)).clock_mhz
            assert chosen in LEVELS
            assert chosen >= clock_mhz
            if clock_mhz >= target_mhz:
                assert chosen == clock_mhz
            if chosen < target_mhz:
                assert now_s - changed_at_s >= dwell_s - 1e-9
                assert target_mhz - chosen <= max_step_mhz
            if chosen != target_mhz:
                # The wrapper sees the new target at its next step.
                changed_at_s = (i + 1) * step_s
            target_mhz = chosen

    def test_arrives_in_the_end(self):
        limited, target_mhz = RateLimited(Scripted(705.0), dwell_s=0.1, max_step_mhz=15), 1410.0
        for i in range(500):
            seen = observation(DECODE, 0.05 * i, target_mhz=target_mhz)
            target_mhz = limited.decide(seen).clock_mhz
        assert target_mhz == 705.0

    @given(vst.observations())
    def test_never_certifies_what_does_not_fit(self, seen):
        limited = RateLimited(EcoFreq(MODEL, LEVELS, SLO), dwell_s=1.0)
        decision = limited.decide(seen)
        if decision.status is Status.CERTIFIED:
            assert decision.forecast.upper_at(decision.clock_mhz) <= decision.budget_s

    def test_refuses_steps_that_reach_no_level(self):
        with pytest.raises(ConfigError, match=r"max_step_mhz.*405 MHz"):
            RateLimited(EcoFreqV01(MODEL, TWO, SLO), dwell_s=0.0, max_step_mhz=100.0)


class TestSupervised:
    def make(self, *clocks_mhz, **options):
        return Supervised(Scripted(*clocks_mhz), fallback=FixedClock(1410.0), **options)

    @pytest.mark.parametrize(
        "fault",
        [RuntimeError("broken"), None, math.nan, math.inf, -math.inf, -5.0, 0.0, 1001.0, 3000.0],
        ids=repr,
    )
    def test_falls_back_and_says_so(self, fault):
        with capture_logs() as logs:
            decision = self.make(fault).decide(observation(DECODE))
        assert decision.clock_mhz == 1410.0
        assert decision.reason == "fallback: fixed clock"
        assert [entry["event"] for entry in logs] == ["fallback"]
        assert logs[0]["fault"]

    def test_recovers_after_a_while_and_logs_each_change_once(self):
        supervised = self.make(900.0, ValueError("a"), ValueError("b"), 900.0, recover_after_s=2.0)
        with capture_logs() as logs:
            clocks = [
                supervised.decide(observation(DECODE, now_s)).clock_mhz
                for now_s in (0.0, 1.0, 2.0, 2.9, 3.0, 4.9, 5.0, 6.0)
            ]
        assert clocks == [900.0] + [1410.0] * 5 + [900.0] * 2
        assert [entry["event"] for entry in logs] == ["fallback", "recovered"]

    def test_a_decision_that_takes_too_long_is_a_fault(self):
        time = ManualTime()

        class Slow(Scripted):
            def decide(self, observation):
                time.advance(0.02)
                return super().decide(observation)

        for limit_s, clock_mhz in ((0.03, 900.0), (0.01, 1410.0)):
            supervised = Supervised(
                Slow(900.0), fallback=FixedClock(1410.0), limit_s=limit_s, time=time
            )
            assert supervised.decide(observation(DECODE)).clock_mhz == clock_mhz

    def test_a_limit_needs_a_time_source(self):
        with pytest.raises(ConfigError, match="time"):
            self.make(900.0, limit_s=0.1)

    def test_what_the_fallback_raises_is_not_hidden(self):
        supervised = Supervised(Scripted(None), fallback=Scripted(KeyError("fallback")))
        with capture_logs(), pytest.raises(KeyError, match="fallback"):
            supervised.decide(observation(DECODE))


def test_wrappers_show_what_they_wrap_and_hand_its_attributes_on():
    inner = EcoFreq(MODEL, LEVELS, SLO)
    outer = Supervised(RateLimited(inner, dwell_s=0.5), fallback=FixedClock.max(TWO))
    assert outer.levels_mhz == LEVELS
    assert outer.predictor is MODEL
    assert repr(outer) == (
        "Supervised(RateLimited(EcoFreq(LinearSnapshot, 705-1410 MHz), dwell_s=0.5), "
        "fallback=FixedClock(1410))"
    )


def test_wrappers_of_a_controller_without_levels_have_none():
    class Bare:
        def decide(self, observation):
            return Decision(clock_mhz=1234.5, reason="bare")

    limited = RateLimited(Bare(), dwell_s=1.0)
    outer = Supervised(limited, fallback=FixedClock(1410.0))
    assert not hasattr(outer, "levels_mhz")
    assert outer.predictor is None
    assert outer.decide(observation(DECODE, target_mhz=1300.0)).clock_mhz == 1300.0


def test_a_fixed_clock_is_the_end_of_a_table():
    assert FixedClock.max(A100_CLOCKS_MHZ).levels_mhz == (1410.0,)
    assert FixedClock.min(A100_CLOCKS_MHZ).levels_mhz == (210.0,)
    with pytest.raises(ConfigError, match="clock_mhz"):
        FixedClock(np.nan)
