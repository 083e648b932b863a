"""Keeps errors of a meter away from the engine, and switches it off after a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

METER = "_voltana_meter"
"""Attribute of a scheduler that is measured."""

MAX_ERRORS = 5
"""The meter of a scheduler is switched off after so many."""


class Closable(Protocol):
    """What measures a scheduler.

    Attributes:
        errors: Errors so far; counted here.
    """

    errors: int

    def close(self) -> None:
        """Measure no more."""
        ...


def note_error(scheduler: Any, meter: Closable, error: Exception, log: logging.Logger) -> None:
    """Count an error and log it; switch the meter off after `MAX_ERRORS`. Never raises.

    Args:
        scheduler: What is measured.
        meter: What measures it.
        error: What went wrong.
        log: The engine's log.
    """
    try:
        meter.errors += 1
        _say(
            log.warning,
            "voltana: error %d of %d while measuring: %s: %s",
            meter.errors, MAX_ERRORS, type(error).__name__, error,
            exc_info=meter.errors == 1,
        )  # fmt: skip
        if meter.errors >= MAX_ERRORS:
            setattr(scheduler, METER, None)
            meter.close()
            _say(
                log.error,
                "voltana: switched off after %d errors; the engine serves on at the default clocks",
                meter.errors,
            )
    except Exception:  # noqa: BLE001  (nothing is left to be said)
        return


def _say(how: Callable[..., None], *what: Any, **more: Any) -> None:
    """Log, as far as the engine's log can: whoever cannot be told must not keep a meter on."""
    try:
        how(*what, **more)
    except Exception:  # noqa: BLE001  (an error without a text, a handler that raises)
        return
