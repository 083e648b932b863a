"""Serves the daemon's figures to Prometheus, in a process of its own without any privilege.

It asks the daemon as any client does, by the Unix socket, no more than once in `FRESH_S` however
often it is scraped. So nothing that comes over the network can hold up the daemon, or reach it: a
scraper's bytes are read by this process alone, which may be killed at any moment.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from voltana_actuatord.console import daemon_status
from voltana_actuatord.errors import VoltanaError
from voltana_actuatord.metrics.called import called
from voltana_actuatord.metrics.exposition import CONTENT_TYPE, exposed
from voltana_actuatord.metrics.of_daemon import families

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

FRESH_S = 1.0
"""For how long an answer of the daemon is told again."""

READ_S = 5.0
"""Time for a request, and for an answer to be taken."""

MOST_OPEN = 16
"""Connections at a time; further ones are closed unread."""

MOST_HEADERS_BYTES = 8192


class Figures:
    """What the daemon said last.

    Args:
        ask: Asks it; raises `VoltanaError` if it does not answer.
    """

    def __init__(self, ask: Callable[[], Mapping[str, Any]]) -> None:
        self._ask = ask
        self._asking = threading.Lock()
        self._asked_s = -FRESH_S
        self._text = b""
        self._answered = False

    def current(self) -> tuple[bytes, bool]:
        """The text, and whether the daemon answered; one question at a time."""
        with self._asking:
            if time.monotonic() - self._asked_s >= FRESH_S:
                status: Mapping[str, Any] | None = None
                try:
                    status = self._ask()
                    self._text = exposed(families(status))
                except (VoltanaError, KeyError, TypeError, ValueError):
                    status = None  # it does not answer, or says something unknown
                    self._text = exposed(families(None))
                self._answered = status is not None
                self._asked_s = time.monotonic()
            return self._text, self._answered


class Exporter(ThreadingHTTPServer):
    """Listens; ``serve_forever`` runs it.

    Args:
        address: Host and port; port 0 takes a free one.
        figures: What is told.
        names: Names, beside addresses and ``localhost``, under which it may be asked.

    Raises:
        OSError: If the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(
        self, address: tuple[str, int], figures: Figures, names: Collection[str] = ()
    ) -> None:
        self.figures = figures
        self.names = frozenset(name.lower() for name in names)
        self._places = threading.BoundedSemaphore(MOST_OPEN)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, if there is a place left."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See `process_request`."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that broke off is none of the operator's concern."""


class _Handler(BaseHTTPRequestHandler):
    server: Exporter
    timeout = READ_S
    server_version, sys_version = "voltana-actuatord", ""

    def setup(self) -> None:
        super().setup()
        # However slowly it sends, byte by byte: nobody keeps a place for longer.
        self._watchdog = threading.Timer(2.0 * READ_S, self._cut_off)
        self._watchdog.daemon = True
        self._watchdog.start()

    def finish(self) -> None:
        self._watchdog.cancel()
        super().finish()

    def do_GET(self) -> None:
        if "Origin" in self.headers or not self._is_called_properly():
            self._answer(403, b"ask under an address, localhost, or a name that was given\n")
        elif self.path == "/metrics":
            self._answer(200, self.server.figures.current()[0], CONTENT_TYPE)
        elif self.path == "/health":
            healthy = self.server.figures.current()[1]
            self._answer(200 if healthy else 503, b"" if healthy else b"no daemon answers\n")
        else:
            self._answer(404, b"/metrics and /health are served\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's)
        """Scrapes are not logged."""

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _is_called_properly(self) -> bool:
        """Whether it is asked under a name that no web page can have resolved to it."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            return False
        name = called(hosts[0])
        if name == "localhost" or name in self.server.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _cut_off(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def of_daemon(socket_path: str) -> Figures:
    """What the daemon at a socket says."""
    return Figures(lambda: daemon_status(socket_path))
