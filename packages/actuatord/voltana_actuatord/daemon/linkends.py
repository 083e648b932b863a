"""The two ends of the link between the worker and a GPU's process.

Wishes are fixed records in a pipe, from which all that have come are read at once. Answers come
over a socket pair of type SOCK_SEQPACKET, which keeps their boundaries. Either end sees by it that
the other is gone.
"""

from __future__ import annotations

import os
import socket

MAX_BYTES = 32_768


class WorkerEnd:
    """The worker's end.

    Args:
        answers: Where the process of the GPU answers; made non-blocking.
        wishes: Descriptor of the pipe to it; made non-blocking.
    """

    def __init__(self, answers: socket.socket, wishes: int) -> None:
        answers.setblocking(False)
        os.set_blocking(wishes, False)
        self._answers = answers
        self._wishes = wishes

    def fileno(self) -> int:
        """What is readable when there is an answer."""
        return self._answers.fileno()

    def handles(self) -> list[int]:
        """Its descriptors, to hand them over to `WorkerEnd.of`."""
        return [self._answers.fileno(), self._wishes]

    @classmethod
    def of(cls, handles: list[int]) -> WorkerEnd | None:
        """The end whose descriptors these are; None, and they are closed, if they are none."""
        if len(handles) == 2:
            return cls(socket.socket(fileno=handles[0]), handles[1])
        for handle in handles:
            os.close(handle)
        return None

    def ask(self, data: bytes) -> None:
        """Write wishes; all or nothing.

        Raises:
            BlockingIOError: If the process is behind.
            OSError: If it is gone.
        """
        os.write(self._wishes, data)

    def hear(self) -> bytes:
        """The next answer; empty at the end.

        Raises:
            BlockingIOError: If there is none.
            OSError: If the process is gone.
        """
        return self._answers.recv(MAX_BYTES)

    def close(self) -> None:
        """Close both; the process of the GPU then gives its clock back."""
        self._answers.close()
        os.close(self._wishes)


class GpuEnd:
    """The end of the GPU's process.

    Args:
        answers: Where it answers.
        wishes: Descriptor from which it reads wishes; made non-blocking.
    """

    def __init__(self, answers: socket.socket, wishes: int) -> None:
        os.set_blocking(wishes, False)
        self.wishes = wishes
        self._answers = answers

    def read(self, length: int) -> bytes:
        """Wishes that have come; empty if the worker is gone.

        Raises:
            BlockingIOError: If there is none.
        """
        return os.read(self.wishes, length)

    def answer(self, data: bytes) -> None:
        """Answer without waiting.

        Raises:
            OSError: If the worker does not read, or is gone.
        """
        self._answers.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Close both."""
        self._answers.close()
        os.close(self.wishes)


def link() -> tuple[WorkerEnd, GpuEnd]:
    """A link between a worker and the process of a GPU.

    Raises:
        OSError: If there is no descriptor left.
    """
    reader, writer = os.pipe()
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    return WorkerEnd(ours, writer), GpuEnd(theirs, reader)
