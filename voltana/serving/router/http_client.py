"""The HTTP client towards servers."""

from __future__ import annotations

import aiohttp

CONNECT_TIMEOUT_S = 5.0

KEEP_ALIVE_S = 3.0
"""Below the 5 s after which SGLang's HTTP server closes an idle connection."""


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def make_session() -> aiohttp.ClientSession:
    """A client that adds nothing to requests and limits nothing but the time of a connect."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        read_bufsize=1 << 18,
    )
