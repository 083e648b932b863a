"""A policy: what controls every instance of a cluster and routes its requests.

The same object is accepted by the simulator, the engine agent and the router, so that a policy
that was tested in one runs in the others. A user's ``MODULE:FACTORY`` may return a `Policy`, a
controller (then used for every instance) or a router (then used for both legs).
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from voltana.errors import ConfigError
from voltana.ports import Controller, HasLevels, HoldsPredictor, Router

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo
    from voltana.values import Load, Role


FIXED_PREFIX = "fixed:"
"""Begins the names of policies of fixed clocks (`voltana.policies.fixed`)."""

MAX_LISTED_NAMES = 20
"""Names of a user's module that an error lists."""


class Bench(Protocol):
    """A machine on which latency can be measured, as a profiling run does."""

    def measure_s(self, load: Load, clock_mhz: float) -> float:
        """Run `load` once at `clock_mhz` and return its measured, noisy latency."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceContext:
    """What a policy is told of an instance when it builds its controller.

    Attributes:
        instance: Name of the instance.
        role: What it is there for.
        table_mhz: Clocks that its devices support, ascending.
        slo: The thresholds that hold for it.
        seed: For policies that randomise.
        datasheet: Published numbers of the device and the model (peak FLOP/s, bandwidth, bytes of
            weights, ...), for a physical prior; keys carry their units. May be empty.
        bench: Where latency can be profiled beforehand; None where it cannot.
        max_batch_tokens: Most prompt tokens in one prefill iteration.
        max_running_requests: Most requests in one decode batch.
        max_power_w: Power limit of all its devices together.
        kv_capacity_tokens: Tokens that its KV cache holds; inf where unknown.
        kv_reserved_tokens: Tokens that the engine keeps free in it for each request.
        predictor: Latency model to use, one that has learned already or a user's own; None leaves
            it to the policy.
        power: Power model to use, likewise.
        levels_mhz: Clocks that may be chosen, ascending, where the user said which; None leaves
            them to the policy. Whatever it makes, nothing else is asked for.
    """

    instance: str
    role: Role
    table_mhz: tuple[float, ...]
    slo: Slo
    seed: int = 0
    datasheet: Mapping[str, float] = field(default_factory=dict)
    bench: Bench | None = None
    max_batch_tokens: int = 16384
    max_running_requests: int = 1 << 30
    max_power_w: float = 400.0
    kv_capacity_tokens: float = math.inf
    kv_reserved_tokens: float = 0.0
    predictor: Predictor | None = None
    power: PowerPredictor | None = None
    levels_mhz: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePolicy:
    """What controls one instance.

    Attributes:
        controller: Chooses its clock.
        levels_mhz: Clocks that may be chosen, ascending; the loop clamps to them.
        predictor: Latency model that the loop teaches; None where the policy learns nothing.
        power: Power model that the loop teaches from energy windows; None likewise.
    """

    controller: Controller
    levels_mhz: tuple[float, ...]
    predictor: Predictor | None = None
    power: PowerPredictor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named composition of controllers and routers.

    Attributes:
        name: As given on the command line.
        summary: One line that says what it does.
        control: Builds what controls an instance.
        prefill_router: Builds the router of the prefill leg, from a seed.
        decode_router: Builds the router of the decode leg, from a seed.
        profiled: Whether it looks up tables that were profiled beforehand, where no latency model
            is given.
    """

    name: str
    summary: str
    control: Callable[[InstanceContext], InstancePolicy]
    prefill_router: Callable[[int], Router]
    decode_router: Callable[[int], Router]
    profiled: bool = False


def is_users_own(reference: str) -> bool:
    """Whether a policy's name refers to a user's code, which is imported, not to one of ours."""
    return ":" in reference and not reference.startswith(FIXED_PREFIX)


def load_object(reference: str, *, field: str = "policy") -> object:
    """Import ``MODULE:NAME``, with the current directory on the path as for ``python -m``.

    Args:
        reference: As the user wrote it.
        field: What errors call it.

    Raises:
        ConfigError: If the module or the name does not exist, naming the remedy.
    """
    module_name, separator, attribute = reference.partition(":")
    if not (separator and module_name.strip(".") == module_name != "" and attribute):
        raise ConfigError(
            f"{field} = {reference!r} is not allowed: must be MODULE:FACTORY, or a known name "
            "where a policy is asked for. Name your module and, after a colon, what it defines; "
            "'voltana policies' lists the names."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ConfigError(
            f"{field} = {reference!r} {_import_trouble(module_name, error)}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = _defined_names(module) or ["nothing"]
        more = ", ..." if len(names) > MAX_LISTED_NAMES else ""
        raise ConfigError(
            f"{field} = {reference!r}: module {module_name!r} has no {attribute!r}. "
            f"It defines: {', '.join(names[:MAX_LISTED_NAMES])}{more}."
        ) from None


def _import_trouble(module_name: str, error: BaseException) -> str:
    """What is wrong, and whose fault it is: the place, something missing, or the module itself."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if f"{module_name}.".startswith(f"{error.name}."):
            return (
                f"cannot be imported: {what}. Run the command where the module lies, or install it."
            )
        place = raised_at(error)
        return f"cannot be imported: it imports what is not installed: {what}{place}. Install it."
    if isinstance(error, SyntaxError):
        return f"cannot be imported: it is not Python: {what}. Mend the module."
    return f"cannot be imported: it raised {what}{raised_at(error)}. Mend the module."


def raised_at(error: BaseException) -> str:
    """Where an exception came from, in parentheses: the last place that is no import machinery."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if not frame.filename.startswith("<frozen") and frame.filename != importlib.__file__:
            return f" ({Path(frame.filename).name}:{frame.lineno}, {frame.name}())".replace(
                ", <module>()", ""
            )
    return ""


def _defined_names(module: ModuleType) -> list[str]:
    """Public names that a module defines itself, without what it imports."""

    def is_its_own(value: object) -> bool:
        if isinstance(value, type) or callable(value):
            return getattr(value, "__module__", module.__name__) == module.__name__
        return not isinstance(value, ModuleType)

    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and is_its_own(value)
    ]


def call_factory(factory: object, context: InstanceContext) -> object:
    """Call a user's factory, with the context if it takes an argument.

    Raises:
        ConfigError: If it is not callable, or needs more than the context.
    """
    if not callable(factory):
        raise ConfigError(
            f"factory {factory!r} is not callable: must be a class or a function that returns a "
            "component or a Policy. Name the function, not its result."
        )
    required = required_parameters(factory)
    if len(required) > 1 or any(p.kind is p.KEYWORD_ONLY for p in required):
        names = ", ".join(p.name for p in required)
        raise ConfigError(
            f"factory {factory!r} needs the arguments {names}: must need none, or one, the "
            "InstanceContext. Give the others defaults."
        )
    return factory(context) if required else factory()


def required_parameters(factory: Callable[..., object]) -> list[inspect.Parameter]:
    """Parameters that a factory cannot be called without."""
    return [
        p
        for p in _signature(factory).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _signature(factory: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except (ValueError, TypeError):  # of something built in, which makes none of ours
        raise ConfigError(
            f"factory {factory!r} does not say its arguments: must be a class or a function of "
            "your own that returns a controller, a router or a Policy. Name that one."
        ) from None


def as_instance_policy(made: object, context: InstanceContext) -> InstancePolicy:
    """Wrap what a factory made for one instance.

    A bare controller may choose every supported clock; if it has a ``predictor`` attribute, the
    loop teaches that predictor.

    Raises:
        ConfigError: If it is no controller.
    """
    if isinstance(made, InstancePolicy):
        return made
    if isinstance(made, Controller):
        levels = made.levels_mhz if isinstance(made, HasLevels) else context.table_mhz
        return InstancePolicy(
            controller=made,
            levels_mhz=tuple(map(float, levels)),
            predictor=made.predictor if isinstance(made, HoldsPredictor) else None,
        )
    raise ConfigError(
        f"the factory returned {type(made).__name__}, which has neither decide() nor route(): "
        "return a Controller, a Router, an InstancePolicy or a Policy."
    )
