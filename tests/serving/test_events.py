"""Streams are cut into whole events, whatever pieces they come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voltana.serving.router.events import EVENT_END, Events

PIECES = st.lists(st.text("a\n", max_size=6).map(str.encode), max_size=12)


@given(pieces=PIECES)
def test_whole_events_come_at_once_and_nothing_is_lost(pieces: list[bytes]) -> None:
    events, passed, came = Events(), b"", b""
    for piece in pieces:
        came += piece
        whole = events.feed(piece)
        assert not whole or whole.endswith(EVENT_END)
        passed += whole
        assert EVENT_END not in events.close()
        assert passed + events.close() == came
        assert events.waiting == len(came) - len(passed)
