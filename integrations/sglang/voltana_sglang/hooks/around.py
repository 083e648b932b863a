"""The hooks themselves: they call SGLang, and the meter around it, and let no error through."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import METER, note_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_sglang.hooks.meter import Meter

LAUNCHED = "_voltana_launched"
"""Attribute of a result: what was noted at the launch of its batch. SGLang hands the result on,
but copies the batch without what it does not know."""

_log = logging.getLogger("sglang.voltana")


def around_run_batch(
    original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around ``Scheduler.run_batch``."""
    meter: Meter | None = getattr(scheduler, METER, None)
    if meter is None:
        return original(scheduler, batch, *args, **kwargs)
    launched = None
    try:
        launched = meter.launch(batch)
    except Exception as error:  # noqa: BLE001  (the engine goes on whatever happens here)
        note_error(scheduler, meter, error, _log)
    result = original(scheduler, batch, *args, **kwargs)
    if launched is not None:
        try:
            setattr(result, LAUNCHED, meter.returned(launched))
        except Exception as error:  # noqa: BLE001
            note_error(scheduler, meter, error, _log)
    return result


def around_process_batch_result(
    original: Callable[..., Any], scheduler: Any, batch: Any, result: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around ``Scheduler.process_batch_result``."""
    meter: Meter | None = getattr(scheduler, METER, None)
    if meter is not None:
        try:
            meter.finish(batch, result, getattr(result, LAUNCHED, None))
        except Exception as error:  # noqa: BLE001
            note_error(scheduler, meter, error, _log)
    return original(scheduler, batch, result, *args, **kwargs)


def around_on_idle(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Around ``Scheduler.on_idle``, where there is one."""
    meter: Meter | None = getattr(scheduler, METER, None)
    if meter is not None:
        try:
            meter.idle()
        except Exception as error:  # noqa: BLE001
            note_error(scheduler, meter, error, _log)
    return original(scheduler, *args, **kwargs)
