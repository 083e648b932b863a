"""Which suites of `voltana.testing` a user's component goes through."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, invalid
from voltana.levels import A100_CLOCKS_MHZ, LevelSet
from voltana.policies.users_own import blame
from voltana.policy import InstanceContext, InstancePolicy, Policy, call_factory, load_object
from voltana.ports import Actuator, Controller, PowerPredictor, Predictor, Router
from voltana.predictors.conformal import Conformal
from voltana.slo import Slo
from voltana.testing import (
    Report,
    check_actuator,
    check_controller,
    check_guarantee,
    check_level_set,
    check_power_predictor,
    check_predictor,
    check_router,
)
from voltana.testing.guarantee_program import Guaranteed
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable


def reports_on(reference: str, *, role: str, programs: int, seed: int) -> list[Report]:
    """Run every suite that applies to what ``MODULE:NAME`` makes, or is.

    Args:
        reference: The factory, as a user names it; or a level set, which is a plain value.
        role: Role of the instance that a factory is told of.
        programs: Random programs of the guarantee suite.
        seed: Of those.

    Raises:
        ConfigError: If it makes none of the kinds that can be checked.
    """
    roles = {r.value: r for r in (Role.PREFILL, Role.DECODE)}
    if role not in roles:
        raise invalid("role", role, "prefill or decode", "Leave it out for decode.")
    context = InstanceContext(
        instance=f"{role}-0",
        role=roles[role],
        table_mhz=A100_CLOCKS_MHZ,
        slo=Slo(ttft_s=0.6, itl_s=0.05),
    )
    factory = load_object(reference, field="reference")

    def make() -> object:
        with blame(reference, field="reference"):
            return call_factory(factory, context)

    if isinstance(factory, LevelSet) and not callable(factory):
        return _one(check_level_set(lambda: factory), "level set")
    made = make()
    if isinstance(made, Policy):
        with blame(reference, field="reference"):
            return _policy(made, context, programs, seed)
    if isinstance(made, InstancePolicy):
        return _controller(lambda: _controller_of(make()), programs, seed, made.levels_mhz)
    if isinstance(made, Controller):
        levels = tuple(map(float, getattr(made, "levels_mhz", A100_CLOCKS_MHZ)))
        return _controller(make, programs, seed, levels)  # type: ignore[arg-type]
    if isinstance(made, Predictor):
        return _predictor(make, programs, seed)  # type: ignore[arg-type]
    return _contract(made, make, reference)


def _contract(made: object, make: Callable[[], object], reference: str) -> list[Report]:
    """The suite of a component that has one suite alone."""
    if isinstance(made, Router):
        return _one(check_router(make), "router")  # type: ignore[arg-type]
    if isinstance(made, Actuator):
        made.close()
        return _one(check_actuator(make), "actuator")  # type: ignore[arg-type]
    if isinstance(made, PowerPredictor):
        return _one(check_power_predictor(make), "power predictor")  # type: ignore[arg-type]
    if isinstance(made, LevelSet):
        return _one(check_level_set(make), "level set")  # type: ignore[arg-type]
    raise ConfigError(
        f"{reference!r} makes {type(made).__name__}, which has none of decide(), route(), "
        "forecast() with learn() and snapshot(), forecast_w() with learn_window(), levels(), and "
        "table() with apply(), status() and close(): return a Controller, a Router, a Predictor, a "
        "PowerPredictor, a LevelSet, an Actuator or a Policy."
    )


def _policy(policy: Policy, context: InstanceContext, programs: int, seed: int) -> list[Report]:
    levels = policy.control(context).levels_mhz
    reports = _controller(lambda: _controller_of(policy.control(context)), programs, seed, levels)
    legs = ((Role.PREFILL, policy.prefill_router), (Role.DECODE, policy.decode_router))
    for role, router in legs:
        report = check_router(lambda router=router: router(seed), roles=(role,))  # type: ignore[misc]
        reports.append(_named(report, f"contract of the {role.value} router"))
    return reports


def _controller_of(made: object) -> Controller:
    if not isinstance(made, InstancePolicy):
        raise ConfigError(f"the factory made {type(made).__name__} the second time: be consistent.")
    return made.controller


def _controller(
    make: Callable[[], Controller], programs: int, seed: int, levels: tuple[float, ...]
) -> list[Report]:
    contract = check_controller(make, levels_mhz=levels)
    guarantee = check_guarantee(make, programs=programs, seed=seed)
    return [_named(contract, "contract of a controller"), _named(guarantee, "SLO guarantee")]


def _predictor(make: Callable[[], Predictor], programs: int, seed: int) -> list[Report]:
    contract = _named(check_predictor(make), "contract of a predictor")
    if isinstance(make(), Guaranteed):
        guarantee = check_guarantee(make, programs=programs, seed=seed)
        return [contract, _named(guarantee, "SLO guarantee")]
    wrapped = check_guarantee(lambda: Conformal(make(), first=0.15), programs=programs, seed=seed)
    return [contract, _named(wrapped, "SLO guarantee, inside Conformal")]


def _one(report: Report, what: str) -> list[Report]:
    return [_named(report, f"contract of {'an' if what[0] in 'aeiou' else 'a'} {what}")]


def _named(report: Report, suite: str) -> Report:
    return dataclasses.replace(report, subject=suite)
