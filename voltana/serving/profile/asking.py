"""Questions to a server that is calibrated, by a process that has no event loop."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from voltana.errors import invalid
from voltana.serving.profile.run import ProfileRunError
from voltana.serving.router.keys import REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_S = 300.0


class RefusedError(ProfileRunError):
    """The server answered with an error.

    Args:
        status: HTTP status.
        text: What it said.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def checked_url(url: str) -> str:
    """Where a server listens, without a slash at its end.

    Raises:
        ConfigError: If that is no URL.
    """
    if not url.startswith(("http://", "https://")):
        raise invalid("url", url, "an http or https URL", "Write http://HOST:PORT.")
    return url.rstrip("/")


def ask(url: str, headers: Mapping[str, str], *body: Any, remedy: str = "") -> Any:
    """What an address answers: its JSON, or its text.

    Args:
        url: The address.
        headers: Of the question.
        body: Nothing for GET; else what is posted as JSON, or None to post nothing.
        remedy: What to do about a key that is refused.

    Raises:
        RefusedError: If it answers with an error.
        ProfileRunError: If it does not answer.
    """
    request = urllib.request.Request(url, headers=dict(headers))
    if body:
        request.data = b"" if body[0] is None else json.dumps(body[0]).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
            answer = reply.read()
    except urllib.error.HTTPError as error:
        said = error.read()[:300].decode(errors="replace")
        told = remedy if error.code in REFUSED else ""
        raise RefusedError(error.code, f"{url} answered {error.code}: {said}{told}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ProfileRunError(f"{url} does not answer ({error}). Start the server first.") from None
    return json.loads(answer) if answer[:1] in {b"{", b"["} else answer.decode(errors="replace")
