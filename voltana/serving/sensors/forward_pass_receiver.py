"""Listens to one ForwardPassMetrics endpoint in a thread of its own, and notes when what came."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from voltana.errors import invalid
from voltana.serving.sensors.forward_pass_message import MOST_BYTES

if TYPE_CHECKING:
    from voltana.ports import TimeSource

_WATERMARK = 4096
MOST_KEPT = 8192
"""Messages that are kept unread; at a millisecond an iteration that is eight seconds."""

_RECONNECT_MS, _LAST_RECONNECT_MS = 100, 1000
_POLL_MS = 100
_MONITORED = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED


class Came(NamedTuple):
    """What came.

    Attributes:
        at_s: When.
        raw: The message; None where the connection ended.
    """

    at_s: float
    raw: bytes | None


class Receiver:
    """Keeps connected to an endpoint, whether anybody listens there or not.

    A thread takes messages as they come, for the time at which a result is there is measured by it;
    the agent's own loop may be busy deciding.

    Args:
        endpoint: ZMQ address of the publisher.
        bell: FIFO that wakes the agent, opened for writing without waiting.
        time: Source of time.

    Attributes:
        endpoint: See above.
        state: What the connection does.
        overrun: Messages that were dropped here, unread.
        heard_s: When the last one came; minus inf before.

    Raises:
        ConfigError: If the endpoint is none that can be connected to.
    """

    def __init__(self, endpoint: str, bell: int, time: TimeSource) -> None:
        self.endpoint = endpoint
        self.state: Literal["nobody listens there", "connected"] = "nobody listens there"
        self.overrun = 0
        self.heard_s = -math.inf
        self._bell = bell
        self._time = time
        self._came: deque[Came] = deque()
        self._ending = threading.Event()
        self._socket, self._monitor = _connected(endpoint)
        self._thread = threading.Thread(target=self._run, name="forward-pass-metrics", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._came)

    def take(self) -> Came | None:
        """The oldest that was not taken; None if there is none."""
        try:
            return self._came.popleft()
        except IndexError:
            return None

    def close(self) -> None:
        """Stop; may be called twice."""
        self._ending.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        try:
            while not self._ending.is_set():
                ready = dict(poller.poll(_POLL_MS))
                if self._socket in ready:
                    self._receive()
                if self._monitor in ready:
                    self._follow_connection()
        finally:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)

    def _receive(self) -> None:
        for _ in range(_WATERMARK):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._keep(parts[-1])  # topic and number stand before it

    def _follow_connection(self) -> None:
        event = recv_monitor_message(self._monitor)["event"]
        self.state = "connected" if event == zmq.EVENT_CONNECTED else "nobody listens there"
        if event == zmq.EVENT_DISCONNECTED:
            self._receive()  # what came before
            self._keep(None)
            self._connect_again()

    def _connect_again(self) -> None:
        """ZMQ does not come back by itself to a peer that broke the rules, as by a long message."""
        self._ending.wait(_RECONNECT_MS / 1e3)
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self.endpoint)
        self._socket.connect(self.endpoint)

    def _keep(self, raw: bytes | None) -> None:
        if len(self._came) >= MOST_KEPT:
            self._came.popleft()
            self.overrun += 1
        now_s = self._time.now_s()
        if raw is not None:
            self.heard_s = now_s
        self._came.append(Came(now_s, raw))
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"\1")


def _connected(endpoint: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A socket that listens to an endpoint, and one that tells of its connection.

    Raises:
        ConfigError: If the endpoint is none that can be connected to.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    try:
        socket.setsockopt(zmq.RCVHWM, _WATERMARK)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LAST_RECONNECT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_MONITORED)
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise invalid(
            "instance.forward_pass_metrics",
            endpoint,
            "an address of ZMQ, such as ipc:///run/voltana/fpm.0 or tcp://10.0.0.5:20380",
            f"It cannot be connected to: {error}. Name what the engine publishes on.",
        ) from error
    return socket, monitor
