"""The hooks themselves: they call vLLM, and the meter around it, and let no error through."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import METER, note_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_vllm.hooks.meter import Meter

_log = logging.getLogger("vllm.voltana")


def around_schedule(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around ``Scheduler.schedule``: what it returns is handed to the workers next."""

    @functools.wraps(original)
    def schedule(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(scheduler, *args, **kwargs)
        meter = None
        try:
            meter = getattr(scheduler, METER, None)
            if meter is not None:
                meter.scheduled(output)
        except Exception as error:  # noqa: BLE001  (the engine goes on whatever happens here)
            _failed(scheduler, meter, error)
        return output

    return schedule


def around_update_from_output(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around ``Scheduler.update_from_output``: it is called when the result is there."""

    @functools.wraps(original)
    def update_from_output(scheduler: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            meter = getattr(scheduler, METER, None)
        except Exception:  # noqa: BLE001  (a class of the user's own)
            meter = None
        if meter is None:
            return original(scheduler, scheduler_output, *args, **kwargs)
        ready_s = meter.now_s()  # a clock, which cannot fail
        if meter.due is not None:  # before what it computes is changed by its result
            _measure_late(scheduler, meter)
        result = original(scheduler, scheduler_output, *args, **kwargs)
        try:
            meter.updated(scheduler_output, ready_s)
        except Exception as error:  # noqa: BLE001
            _failed(scheduler, meter, error)
        return result

    return update_from_output


def around_get_grammar_bitmask(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around ``Scheduler.get_grammar_bitmask``: a batch was handed over, and is waited for next."""

    @functools.wraps(original)
    def get_grammar_bitmask(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(scheduler, *args, **kwargs)
        meter = None
        try:
            meter = getattr(scheduler, METER, None)
            if meter is not None and meter.due is not None:
                meter.asked()
        except Exception as error:  # noqa: BLE001
            _failed(scheduler, meter, error)
        return result

    return get_grammar_bitmask


def around_free_request(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around ``Scheduler._free_request``: a request has ended, and is about to be forgotten."""

    @functools.wraps(original)
    def free_request(scheduler: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        meter = None
        try:
            meter = getattr(scheduler, METER, None)
            if meter is not None:
                meter.freed(request)
        except Exception as error:  # noqa: BLE001
            _failed(scheduler, meter, error)
        return original(scheduler, request, *args, **kwargs)

    return free_request


def _measure_late(scheduler: Any, meter: Meter) -> None:
    try:
        meter.overdue()
    except Exception as error:  # noqa: BLE001
        _failed(scheduler, meter, error)


def _failed(scheduler: Any, meter: Meter | None, error: Exception) -> None:
    """Count an error; what was followed up to it is looked at anew, not counted on."""
    if meter is None:  # a scheduler with a way of its own to look up attributes, which failed
        return
    note_error(scheduler, meter, error, _log)
    try:
        meter.doubt()
    except Exception:  # noqa: BLE001  (the next error switches it off in time)
        return


HOOKS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "schedule": around_schedule,
    "update_from_output": around_update_from_output,
}
"""What is around which method of the scheduler; without it nothing can be measured."""

ASKED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "get_grammar_bitmask": around_get_grammar_bitmask,
}
"""Likewise; without it launches are told before batches are handed over."""

MORE_HOOKS = ASKED | {"_free_request": around_free_request}
"""Those that can be done without; without the last, ends are read when they are told."""
