"""The hooks themselves: they call SGLang, and the meter around it, and let no error through."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_sglang.hooks.meter import Meter

METER = "_voltana_meter"
"""Attribute of a scheduler that is measured."""

LAUNCHED = "_voltana_launched"
"""Attribute of a result: what was noted at the launch of its batch. SGLang hands the result on,
but copies the batch without what it does not know."""

MAX_ERRORS = 5
"""The meter of a scheduler is switched off after so many."""

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
        note_error(scheduler, meter, error)
    result = original(scheduler, batch, *args, **kwargs)
    if launched is not None:
        try:
            setattr(result, LAUNCHED, meter.returned(launched))
        except Exception as error:  # noqa: BLE001
            note_error(scheduler, meter, error)
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
            note_error(scheduler, meter, error)
    return original(scheduler, batch, result, *args, **kwargs)


def around_on_idle(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Around ``Scheduler.on_idle``, where there is one."""
    meter: Meter | None = getattr(scheduler, METER, None)
    if meter is not None:
        try:
            meter.idle()
        except Exception as error:  # noqa: BLE001
            note_error(scheduler, meter, error)
    return original(scheduler, *args, **kwargs)


def note_error(scheduler: Any, meter: Meter, error: Exception) -> None:
    """Count an error and log it; switch the meter off after `MAX_ERRORS`. Never raises."""
    try:
        meter.errors += 1
        _log.warning(
            "voltana: error %d of %d while measuring: %s: %s",
            meter.errors, MAX_ERRORS, type(error).__name__, error,
            exc_info=meter.errors == 1,
        )  # fmt: skip
        if meter.errors >= MAX_ERRORS:
            setattr(scheduler, METER, None)
            meter.close()
            _log.error(
                "voltana: switched off after %d errors; the engine serves on at the default clocks",
                meter.errors,
            )
    except Exception:  # noqa: BLE001  (nothing is left to be said)
        return
