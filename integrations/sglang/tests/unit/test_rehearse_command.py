"""`voltana rehearse` as a newcomer runs it: to the end, into a taken port, and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rehearsed import write_cluster

from voltana.rehearsal import fake_driver
from voltana.serving.toml_file import read_toml

COMMAND = (sys.executable, "-c", "from voltana.cli.main import main; main()")
SHORT = ("--rate", "3", "--duration", "3", "--policy", "static-low")


@pytest.fixture(autouse=True)
def _compiler():
    if fake_driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")


def rehearse(path, *flags, **more):
    return subprocess.Popen(
        [*COMMAND, "rehearse", str(path), *SHORT, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background has them ignore it, children included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **more,
    )


def lines_until(process, start):
    """What it says up to the line that begins so, that one included."""
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(start):
            return said
    raise AssertionError("".join(said))


def left_of(folder):
    """Processes that have to do with a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if folder.encode() in words:
                found.append(process.name)
    return found


@pytest.mark.parametrize("key", ["router", "first"])
def test_a_taken_port_is_named_before_anything_is_served(tmp_path, key):
    path = write_cluster(tmp_path)
    tables = read_toml(path)
    port = tables["router"]["port"] if key == "router" else tables["launch"]["first_port"]
    with socket.create_server(("127.0.0.1", port)):
        process = rehearse(path)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("voltana: the cluster does not start. voltana-sglang (rehearsal): ")
    assert f"port {port} (" in last
    assert "Something listens there, perhaps an earlier launch: end it, or choose another" in last


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(tmp_path, number):
    process = rehearse(write_cluster(tmp_path), "--out", str(tmp_path / "out"))
    watch = lines_until(process, "watch")[-1]
    folder = re.search(r"--from (\S+)/r/logs", watch)[1]
    assert len(left_of(folder)) > 5
    time.sleep(1.0)
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)  # who is impatient presses it twice
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "voltana: interrupted"
    assert not Path(folder).exists()
    assert left_of(folder) == []
    assert (tmp_path / "out" / "static-low" / "logs" / "router.log").exists()


@pytest.mark.slow
def test_a_process_that_ends_by_itself_ends_the_rehearsal_with_its_last_words(tmp_path):
    process = rehearse(write_cluster(tmp_path))
    folder = re.search(r"--from (\S+)/r/logs", lines_until(process, "watch")[-1])[1]
    (meter,) = (
        int(one) for one in left_of(folder)
        if b"voltana.rehearsal.meter" in Path(f"/proc/{one}/cmdline").read_bytes()
        and b"warden" not in Path(f"/proc/{one}/cmdline").read_bytes()
    )  # fmt: skip
    os.kill(meter, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "voltana: meter has ended." in said.strip().splitlines()[-1]
    assert left_of(folder) == []


@pytest.mark.slow
def test_to_the_end_with_a_fault_a_report_and_a_watcher(tmp_path):
    """A machine that is too slow says so, and at the factor that it names the figures are there."""
    path, factor = write_cluster(tmp_path), "0.5"
    for _ in range(2):
        out = tmp_path / f"at-{factor}"
        process = rehearse(path, "--factor", factor, "--fault", "agent@1", "--out", str(out))
        watch = lines_until(process, "watch")[-1].split()[1:]
        top = subprocess.run(
            [*COMMAND, *watch[1:], "--json"], capture_output=True, text=True, check=False
        )
        printed, said = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        last = said.strip().splitlines()[-1]
        assert "this machine is too slow" in last
        factor = re.search(r"Try --factor ([\d.]+)\.", last)[1]
    else:
        pytest.skip(f"twice too slow, and it said so: {last}")
    assert {one["instance"] for one in json.loads(top.stdout)} == {"prefill-0", "decode-0"}
    results = json.loads((out / "results.json").read_text())
    one = results["policies"]["static-low"]
    assert one["rehearsed"]["requests_completed"] == one["rehearsed"]["requests_offered"]
    assert one["rehearsed"]["energy_j"] == pytest.approx(one["simulated"]["energy_j"], rel=0.05)
    assert one["with_faults"]["agent@1"]["default_clock_s"] > one["rehearsed"]["default_clock_s"]
    assert "With agent@1: energy +" in printed.replace("\n", " ")
    page = (out / "report.html").read_text()
    for part in ("What faults cost", "Verdict", "static-low: decode-0"):
        assert part in page
