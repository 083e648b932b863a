"""The child that reads long bodies: ``python -m voltana.serving.router.reading_child``.

It lives as long as its standard input is open, and speaks as `voltana.serving.router.reading` says.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import sys
from typing import TYPE_CHECKING, BinaryIO

from voltana.serving.router.helper_process import be_modest
from voltana.serving.router.problem import Problem
from voltana.serving.router.reading import RESULT, TASK, understood

if TYPE_CHECKING:
    from voltana.serving.engine import Call


def main() -> None:
    """Read bodies until the router closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the router ends it, when it has drained
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what somebody prints is no answer
    (size,) = struct.unpack("!Q", _exactly(source, 8))
    engine, most, memory_mb = pickle.loads(_exactly(source, size))
    gc.disable()  # millions of lists at once are looked through again and again, for nothing
    be_modest(memory_mb << 20)
    while head := source.read(TASK.size):
        path_size, body_size = TASK.unpack(head)
        path = _exactly(source, path_size).decode()
        raw = _exactly(source, body_size)
        changed: bytes | bytearray = b""
        found: Call | tuple[int, str, str]
        try:
            found = understood(engine, path, raw, most)
            changed = b"" if found.raw is raw else found.raw
            found.raw = b""
        except Problem as problem:
            found = problem.status, problem.message, problem.code
        said = pickle.dumps(found)
        sink.write(RESULT.pack(len(said), len(changed)))
        sink.write(said)
        sink.write(changed)
        sink.flush()
        del raw, changed, found


def _exactly(source: BinaryIO, size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise EOFError
    return content


if __name__ == "__main__":
    try:
        main()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
    except MemoryError:
        os._exit(1)
