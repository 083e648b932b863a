"""Leases, messages and the journal as plain objects."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.leases import AccessRule, LeaseTable, Peer
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.protocol import (
    MAX_BYTES,
    Ack,
    Acquire,
    Kind,
    ProtocolError,
    SetClock,
    decode_ack,
    decode_acquire,
    decode_command,
    encode_ack,
    encode_acquire,
    encode_command,
    kind_of,
)

TABLE = (210.0, 1005.0, 1410.0)
ALICE = Peer(100, 1000, frozenset({1000}))
BOB = Peer(200, 2000, frozenset({2000, 44}))


def table(*rules):
    return LeaseTable(rules or (AccessRule(uids=frozenset({1000}), gids=frozenset({44})),))


def take(leases, key, peer=ALICE, *, devices=(0,), lease_s=2.0, now_s=0.0):
    return leases.acquire(key, peer, Acquire("d", devices, lease_s), TABLE, now_s)


def test_a_lease_runs_from_the_last_step_that_advanced():
    leases = table()
    take(leases, 1)
    leases.command(1, SetClock(0, 1005.0, 2.0), 1.0)
    assert leases.next_expiry_s() == 3.0
    assert leases.lapse(2.9) == []
    leases.command(1, SetClock(1, 1005.0, 2.0), 2.9)
    assert leases.lapse(4.8) == []
    ((key, lease),) = leases.lapse(4.9)
    assert (key, lease.active, math.isnan(lease.target_mhz)) == (1, False, True)
    assert leases.next_expiry_s() == math.inf


@pytest.mark.parametrize("sequence", [5, 4, 0])
def test_a_step_that_does_not_advance_renews_nothing(sequence):
    leases = table()
    take(leases, 1)
    leases.command(1, SetClock(5, 1005.0, 2.0), 1.0)
    with pytest.raises(ProtocolError, match="completed control step"):
        leases.command(1, SetClock(sequence, 1005.0, 2.0), 2.0)
    assert leases.next_expiry_s() == 3.0


def test_a_lapsed_lease_is_taken_up_again_unless_somebody_else_has_the_devices():
    leases = table()
    take(leases, 1)
    leases.lapse(10.0)
    leases.command(1, SetClock(0, 1005.0, 2.0), 10.0)
    leases.lapse(20.0)
    take(leases, 2, BOB, now_s=20.0)
    with pytest.raises(LeaseRefusedError, match="belongs to domain 'd' of pid 200"):
        leases.command(1, SetClock(1, 1005.0, 2.0), 20.5)


def test_rules():
    narrow = AccessRule(uids=frozenset({1000}), gpus=frozenset({0}), min_mhz=900.0, max_lease_s=1.0)
    leases = table(narrow)
    assert take(leases, 1, lease_s=60.0).max_lease_s == 1.0
    assert leases.get(1).clocks_mhz == {1005.0, 1410.0}
    with pytest.raises(LeaseRefusedError, match="may not control GPUs"):
        take(leases, 2, devices=(1,))
    with pytest.raises(LeaseRefusedError, match="uid 2000"):
        take(leases, 2, BOB)
    assert not leases.admits(BOB)
    with pytest.raises(LeaseRefusedError, match="leaves no clock"):
        table(AccessRule(uids=frozenset({1000}), min_mhz=9e3)).acquire(
            1, ALICE, Acquire("d", (0,), 1.0), TABLE, 0.0
        )


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3]),
            st.sampled_from(["acquire", "command", "release", "lapse"]),
            st.sets(st.integers(0, 3), min_size=1),
            st.floats(0.0, 3.0),
        ),
        max_size=40,
    )
)
def test_a_device_never_has_two_owners(steps):
    leases, now_s = table(), 0.0
    for sequence, (key, action, devices, wait_s) in enumerate(steps):
        now_s += wait_s
        leases.lapse(now_s)
        try:
            if action == "acquire":
                take(leases, key, devices=tuple(sorted(devices)), now_s=now_s)
            elif action == "command":
                leases.command(key, SetClock(sequence, 1005.0, 2.0), now_s)
            elif action == "release":
                leases.release(key)
        except (LeaseRefusedError, ProtocolError):
            pass
        held = [device for lease in leases.all() if lease.active for device in lease.devices]
        assert len(held) == len(set(held))
        assert all(lease.expires_s > now_s for lease in leases.all() if lease.active)


@given(
    sequence=st.integers(0, 2**63 - 1),
    clock_mhz=st.floats(1e-3, 1e5),
    lease_s=st.floats(1e-3, 1e3),
)
def test_commands_come_back_as_they_were_sent(sequence, clock_mhz, lease_s):
    data = encode_command(sequence, clock_mhz, lease_s)
    assert kind_of(data) is Kind.COMMAND
    assert decode_command(data) == SetClock(sequence, clock_mhz, lease_s)


def test_other_messages_come_back_as_they_were_sent():
    ack = Ack(7, 1005.0, 990.0, explained=True, note="power cap")
    assert decode_ack(encode_ack(ack)) == ack
    acquire = Acquire("pod-a", (0, 3), 2.0)
    assert decode_acquire(encode_acquire(acquire)) == acquire


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"VA\x01" + tail))
def test_decoding_garbage_raises_one_error_only(data):
    try:
        kind = kind_of(data)
        {Kind.COMMAND: decode_command, Kind.ACQUIRE: decode_acquire, Kind.ACK: decode_ack}.get(
            kind, lambda _: None
        )(data)
    except ProtocolError:
        pass


def test_no_message_may_be_too_long():
    with pytest.raises(ProtocolError, match="bytes"):
        kind_of(b"VA\x01\x01" + b" " * MAX_BYTES)


def test_the_journal_marks_before_and_clears_after(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.mark("GPU-1", had_setting=True)
    journal.mark("GPU-0", had_setting=False)
    again = Journal(tmp_path / "journal")
    assert again.marked() == ("GPU-0", "GPU-1")
    assert (again.had_setting("GPU-0"), again.had_setting("GPU-1")) == (False, True)
    again.clear("GPU-1")
    again.clear("GPU-1")
    assert journal.marked() == ("GPU-0",)
    assert (tmp_path / "journal").stat().st_mode & 0o077 == 0


def test_a_torn_mark_still_counts(tmp_path):
    journal = Journal(tmp_path)
    (tmp_path / "GPU-2.locked").write_text("")
    (tmp_path / "GPU-3.draft").write_text(json.dumps({}))
    assert journal.marked() == ("GPU-2",)
    assert journal.had_setting("GPU-2") is False
    with pytest.raises(ValueError, match="UUID"):
        journal.mark("../../etc/passwd", had_setting=False)
