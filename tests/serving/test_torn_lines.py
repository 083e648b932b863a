"""A line of the log that fits only in part ends there: the next one is not a part of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

CODE = """
import json, os, sys
from voltana.serving.log_file import log_file
from voltana_actuatord.stderr import dropped_lines
log = log_file()
log.write(json.dumps({"event": "long", "why": "x" * 20_000}) + "\\n")
print(dropped_lines(), flush=True)
sys.stdin.readline()  # somebody reads again
log.write(json.dumps({"event": "next"}) + "\\n")
log.write(json.dumps({"event": "last"}) + "\\n")
os.close(2)
log.write("nobody can read this\\n")
print(dropped_lines(), flush=True)
"""


def test_a_line_that_was_written_in_part_takes_no_other_with_it() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    for _ in range(3):  # room for a part of a line that is longer than what is written whole
        os.read(read, 4096)
    with subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write, text=True,
    ) as process:  # fmt: skip
        os.close(write)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        said = _all_of_it(read)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "2\n"
        said += _all_of_it(read)
    os.close(read)
    lines = [line for line in said.split(b"\n") if line]
    assert lines[0].startswith(b'{"event": "long"')
    told = [json.loads(line) for line in lines[1:]]
    assert [line["event"] for line in told] == ["lines of the log were dropped", "next", "last"]
    assert told[0]["lines"] == 1


def _all_of_it(read: int) -> bytes:
    said = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(read, 1 << 16):
            said += piece
    return said
