"""Steps of a group that promises: an iteration, its account, its margin, and its restart."""

from __future__ import annotations

import dataclasses

from agent_world import served
from killed_agent import LOAD, SLO


def launch(world, load=LOAD):
    launch_s = world.engine.launch(load)
    world.group.drain()
    ((_, found),) = [
        x for x in served(world.group).ring_loop.open if x[0] == world.engine.iteration
    ]
    return launch_s, found.decision


def finish(world, launch_s, latency_s=0.005, load=LOAD):
    world.time.advance(max(launch_s + latency_s - world.time.now_s(), 0.0))
    world.engine.finish(load, launch_s, latency_s)
    world.group.drain()


def iterate(world, latency_s=0.005):
    """One iteration from launch to result: its decision."""
    launch_s, decision = launch(world)
    finish(world, launch_s, latency_s)
    return decision


def account(world):
    return served(world.group).guarantee.account()


def served_of(group):
    return next(iter(group._served.values()))


def margin(group):
    return served_of(group).predictor.margin(LOAD).parts[0].quantile


def kept_file(world):
    (path,) = world.config.agent.state.glob("*.guarantee")
    return path


def restarted(world, policy):
    """The group of an agent that was killed and comes back with another policy."""
    made = world.make_group()
    made.settings = dataclasses.replace(made.settings, policy=policy, slo=SLO)
    made.scan()
    return made
