"""When the device was done with an iteration, where the host looks too late to see it itself.

Under overlap the host hands the next batch to the device before it looks at the result of the last
one. Where that takes longer than the device computes (a prefill without CUDA graphs launches
hundreds of kernels), the result has long been there: a clock read then would charge the time of the
launch to the iteration before, and leave the next one nothing. Events of the device tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DeviceTimes:
    """Marks ends of iterations on the device, and places them on the host's clock.

    Args:
        module: Of the device, such as ``torch.cuda``: its events and streams.
        stream: Where iterations run, one after the other.
        now_s: The host's monotonic clock.
    """

    def __init__(self, module: Any, stream: Any, now_s: Callable[[], float]) -> None:
        self._module = module
        self._stream = stream
        self._now_s = now_s
        self._free = module.Stream()

    def mark(self) -> Any:
        """An event at the end of everything that has been handed to the device so far."""
        end = self._module.Event(enable_timing=True)
        end.record(self._stream)
        return end

    def ended_s(self, end: Any) -> float:
        """When an event came, on the host's clock; nan while it has not.

        A second event on a stream that has nothing else to do comes at once, and the device tells
        the time between the two: neither its clock nor that of the host has to keep pace.
        """
        if not end.query():
            return float("nan")
        here = self._module.Event(enable_timing=True)
        here.record(self._free)
        here.synchronize()
        since_ms: float = end.elapsed_time(here)
        return self._now_s() - max(0.0, since_ms) / 1e3


def device_times(scheduler: Any, now_s: Callable[[], float]) -> DeviceTimes | None:
    """Those of a scheduler that overlaps; None where results are looked at as they come.

    Args:
        scheduler: The scheduler.
        now_s: The host's monotonic clock.
    """
    module = getattr(scheduler, "device_module", None)
    stream = getattr(scheduler, "forward_stream", None)
    overlaps = getattr(scheduler, "enable_overlap", False) is True
    if not overlaps or stream is None or not hasattr(module, "Event"):
        return None
    return DeviceTimes(module, stream, now_s)
