"""Rings whose writers live, die, or are somewhere else: who is gone is known."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from voltana.serving.ring_reader import RingReader
from voltana_actuatord.daemon.readers import readable
from voltana_ring.bell import open_bell

WRITER = """
import os, sys, time
from pathlib import Path
from voltana_ring.writer import RingWriter
folder, name = Path(sys.argv[1]), sys.argv[2]
writer = RingWriter(folder / f"{name}.ring", folder / f"{name}.bell", {"role": "x"}, slots=4)
writer.write((1, 2, 0, 0, 0, 7, 1.5, 0, 0.0, 3, 900, 2, 40, 1.25, 1.5, 0.0, 0.0))
writer.ring()
print(os.getpid(), flush=True)
"""


def writer_process(folder, name="a", *prefix, then="time.sleep(600)"):
    """A process with a ring, and its process id as it counts itself."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", WRITER + then, str(folder), name],
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline())


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_writer_is_known_to_be_gone_at_once(tmp_path):
    process, _ = writer_process(tmp_path)
    reader = RingReader(tmp_path / "a.ring")
    assert not reader.replaced()
    end(process)
    assert reader.replaced()
    reader.close()


def test_a_ring_whose_writer_s_process_id_was_given_to_another_is_an_old_one(tmp_path):
    """In a container the next engine often has the process id of the one before."""
    process, pid = writer_process(tmp_path)
    end(process)
    path = tmp_path / "a.ring"
    content = bytearray(path.read_bytes())
    assert content[20:24] == pid.to_bytes(4, sys.byteorder)
    content[20:24] = os.getpid().to_bytes(4, sys.byteorder)  # which runs, but is no writer
    path.write_bytes(content)
    assert RingReader(path).replaced()


def test_children_of_an_engine_do_not_keep_its_ring_alive(tmp_path):
    """Forked or started, and left behind when the engine is killed."""
    # Each tells of itself: a fork that was not run yet has not let go of anything. In one write:
    # both may write at once, and print takes two where output is unbuffered.
    then = (
        "import subprocess; tell = lambda pid: os.write(1, b'%d\\n' % pid);"
        "os.fork() or (tell(os.getpid()), time.sleep(600));"
        "other = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, close_fds=False);"
        "tell(other.pid); time.sleep(600)"
    )
    process, _ = writer_process(tmp_path, then=then)
    children = [int(process.stdout.readline()) for _ in range(2)]
    try:
        reader = RingReader(tmp_path / "a.ring")
        assert not reader.replaced()
        end(process)
        assert reader.replaced()
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module")
def namespace():
    """The command that gives a process a PID namespace of its own."""
    if shutil.which(NAMESPACE[0]) is None:
        pytest.skip("unshare (util-linux) is not installed")
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"PID namespaces are not permitted here: {tried.stderr.strip()}")
    return NAMESPACE


def test_ring_and_bell_work_across_pid_namespaces(namespace, tmp_path):
    """Two containers that share a directory and nothing else."""
    bell = open_bell(tmp_path / "a.bell")
    process, pid = writer_process(tmp_path, "a", *namespace)
    try:
        assert pid == 1  # it means another process to whoever reads
        assert readable([bell], 10.0)
        reader = RingReader(tmp_path / "a.ring", from_start=True)
        assert [record.iteration for record in reader.drain()] == [7]
        assert not reader.replaced()
        # The next engine of this name, again process 1 of its container.
        other, again = writer_process(tmp_path, "a", *namespace)
        assert again == pid
        assert reader.replaced()
        newer = RingReader(tmp_path / "a.ring")
        end(process)
        assert not newer.replaced()
        end(other)
        wait_until(newer.replaced)  # unshare is dead; its child follows within moments
    finally:
        process.kill()
        os.close(bell)


def test_a_reader_in_another_pid_namespace_knows_a_living_writer_from_a_dead_one(
    namespace, tmp_path
):
    living, _ = writer_process(tmp_path, "living")
    dead, _ = writer_process(tmp_path, "dead")
    end(dead)
    code = (
        "import sys; from pathlib import Path; from voltana.serving.ring_reader import RingReader;"
        "f = Path(sys.argv[1]);"
        "print(*[RingReader(f / n).replaced() for n in ('living.ring', 'dead.ring')])"
    )
    try:
        done = subprocess.run(
            [*namespace, sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        end(living)
    assert done.stdout.split() == ["False", "True"]


def wait_until(condition, timeout_s=10.0):
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
