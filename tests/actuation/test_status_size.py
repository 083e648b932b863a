"""However many GPUs there are, and whatever is noted of them, a status fits its message."""

from __future__ import annotations

import json
import socket

import pytest

from voltana_actuatord.daemon.open_gpus import OpenGpus
from voltana_actuatord.daemon.parentlink import News, ParentLink
from voltana_actuatord.daemon.server import GPUS_BYTES


@pytest.mark.parametrize("gpus", [1, 16, 64])
@pytest.mark.parametrize("note", ["", "x" * 600, "\U0001f525" * 600])
def test_a_status_of_many_gpus_fits(gpus, note):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        known = OpenGpus(ParentLink(ours), lambda *_: None, lambda *_: None)
        for number in range(gpus):
            uuid = f"GPU-{number:090d}"
            known.hear(News(uuid=uuid, word="restoring"), 0.0)
            known._gpu(uuid).notes = note
        found = known.listed(GPUS_BYTES)
        assert found
        assert len(json.dumps(found)) <= GPUS_BYTES
        assert gpus > 1 or len(found) == gpus
        assert gpus > 1 or found[0]["note"] == note[:200]
