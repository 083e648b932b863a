"""Which paths of the official router are its API, and which are for its administrator.

Its workers are listed, added and removed, caches flushed and tokenizers replaced under the same
port. What clients may not do is not passed on for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana_sglang.dialect.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import Collection

READ = (
    "/health",
    "/health_generate",
    "/liveness",
    "/readiness",
    "/get_model_info",
    "/model_info",
    "/get_server_info",
    "/server_info",
    "/v1/models",
)
"""What clients ask by GET."""

INFERENCE = (
    *PAGES.inference,
    "/v1/responses",
    "/v1/embeddings",
    "/v1/classify",
    "/v1/rerank",
    "/rerank",
    "/v1/messages",
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/score",
)
"""What clients POST; those under ``/v1/responses/`` and ``/v1/conversations`` besides."""

_TREES = ("/v1/responses/", "/v1/conversations", "/v1/models/")


def is_api(method: str, path: str, further: Collection[str] = ()) -> bool:
    """Whether a request is one that clients may make.

    Args:
        method: Its method.
        path: Its path, decoded.
        further: Paths that the configuration adds, for whatever method.
    """
    if "//" in path or "/." in path or "%" in path or ";" in path:
        return False  # another reader might take it for another path
    if path in further or path.startswith(_TREES):
        return True
    return path in (READ if method in {"GET", "HEAD"} else INFERENCE)
