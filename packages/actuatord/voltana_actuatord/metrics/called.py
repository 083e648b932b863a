"""By which name a request calls the one that it asks: no web page may have one resolve to it."""

from __future__ import annotations

import re

_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]*\]|[^:@\[\]]*|[0-9a-f:.]*)(:\d{0,5})?")


def called(header: str) -> str:
    """The name or address of a header ``Host``, in lower case, without its port and brackets.

    Args:
        header: Its value.

    Returns:
        The name; empty where it is none, or something else than a port follows it.
    """
    found = _HOST.fullmatch(header.strip().lower())
    return found["host"].removeprefix("[").removesuffix("]") if found else ""
