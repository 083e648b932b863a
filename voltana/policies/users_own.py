"""A user's own policy, from ``MODULE:FACTORY``."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, VoltanaError
from voltana.policy import (
    Policy,
    as_instance_policy,
    call_factory,
    is_users_own,
    load_object,
    required_parameters,
)
from voltana.ports import Controller, Router

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.policy import InstanceContext, InstancePolicy

    Control = Callable[[InstanceContext], InstancePolicy]
    MakeRouter = Callable[[int], Router]


def load_policy(
    reference: str,
    *,
    static_max: Control,
    prefill_router: MakeRouter,
    decode_router: MakeRouter,
) -> Policy:
    """The policy that a reference names.

    It may name a `Policy`, or a factory. A factory without required arguments may make a `Policy`;
    a controller, which then controls every instance, each with a fresh one; or a router, which then
    routes both legs, each with a fresh one. A factory with one required argument gets the
    `InstanceContext` and makes a controller or an `InstancePolicy`. A class is a factory; one with
    ``route()`` may require one argument, the seed.

    Args:
        reference: ``MODULE:NAME``.
        static_max: Controls the instances where only a router is given.
        prefill_router: Routes the prefill leg where only a controller is given.
        decode_router: Routes the decode leg likewise.

    Raises:
        ConfigError: If the reference leads nowhere, or to something else.
    """
    named = load_object(reference)
    if isinstance(named, Policy):
        return named
    if not callable(named):
        raise ConfigError(
            f"policy = {reference!r} names a {type(named).__name__}: must be a Policy or a factory "
            "of a controller, a router or a Policy. Name the class or the function."
        )
    summary = (inspect.getdoc(named) or f"the user's own: {reference}").splitlines()[0]
    if _makes_routers(named):
        return _routing(reference, summary, named, static_max)
    control = _control(reference, named)
    if not required_parameters(named):
        with blame(reference):
            made = named()
        if isinstance(made, Policy):
            return made
        if isinstance(made, Router) and not isinstance(made, Controller):
            return _routing(reference, summary, named, static_max)
    return Policy(
        name=reference,
        summary=summary,
        control=control,
        prefill_router=prefill_router,
        decode_router=decode_router,
    )


@contextlib.contextmanager
def blame(reference: str, *, field: str = "policy") -> Iterator[None]:
    """Turn whatever a user's code raises into one line that says where; ours passes through.

    Args:
        reference: The policy's name; only a ``MODULE:FACTORY`` is a user's own.
        field: What the error calls it.

    Raises:
        ConfigError: In place of an exception that a user's policy raised.
    """
    try:
        yield
    except VoltanaError:
        raise
    except (Exception, SystemExit) as error:
        if not is_users_own(reference):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{field} = {reference!r} raised {type(error).__name__} in {frame.name}() "
            f"({Path(frame.filename).name}:{frame.lineno}): {error}. A factory takes nothing or "
            "the InstanceContext; voltana.testing checks what it returns."
        ) from error


def _makes_routers(named: Callable[..., object]) -> bool:
    return isinstance(named, type) and hasattr(named, "route") and not hasattr(named, "decide")


def _control(reference: str, factory: Callable[..., object]) -> Control:
    def control(context: InstanceContext) -> InstancePolicy:
        made = call_factory(factory, context)
        try:
            return as_instance_policy(made, context)
        except ConfigError as error:
            raise ConfigError(f"policy = {reference!r}: {error}") from None

    return control


def _routing(
    reference: str, summary: str, factory: Callable[..., Router], static_max: Control
) -> Policy:
    seeded = bool(required_parameters(factory))

    def route(seed: int) -> Router:
        return factory(seed) if seeded else factory()

    return Policy(
        name=reference,
        summary=summary,
        control=static_max,
        prefill_router=route,
        decode_router=route,
    )
