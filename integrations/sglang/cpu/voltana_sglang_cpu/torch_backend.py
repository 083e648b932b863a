"""Entry point ``torch.backends``: runs at the end of ``import torch`` in every process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_TORCHVISION_OPS = ("nms", "qnms")
_KEPT: list[torch.library.Library] = []
"""Declarations vanish with the object that made them."""


class TimestampEvent:
    """``torch.cuda.Event`` where all work is done by the time it is recorded.

    Args:
        enable_timing: Accepted and not needed, like all others.
    """

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.enable_timing = enable_timing
        self._at_s = 0.0

    def record(self, stream: object = None) -> None:  # noqa: ARG002
        """Note the time."""
        self._at_s = time.perf_counter()

    def wait(self, stream: object = None) -> None:
        """Nothing is pending."""

    def query(self) -> bool:
        """Whether the work before it is done: always."""
        return True

    def synchronize(self) -> None:
        """Nothing is pending."""

    def elapsed_time(self, end_event: TimestampEvent) -> float:
        """Milliseconds from this event to `end_event`."""
        return (end_event._at_s - self._at_s) * 1e3


def autoload() -> None:
    """Patch torch, unless there is a GPU."""
    import torch  # noqa: PLC0415  (torch calls this while it is being imported)

    if torch.cuda.is_available():
        return
    torch.cuda.Event = TimestampEvent  # type: ignore[assignment, misc]
    torch.cpu.Event = TimestampEvent  # type: ignore[attr-defined]
    if torch.version.cuda is None:
        _declare_torchvision_ops()


def _declare_torchvision_ops() -> None:
    """Let the CUDA wheel of torchvision import beside a CPU torch: its own library cannot load."""
    import torch  # noqa: PLC0415

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _TORCHVISION_OPS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
