from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.actuation import driver
from tests.actuation.daemons import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the fake libnvidia-ml.so.1."""
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    return driver.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def make_machine(tmp_path: Path, library: Path) -> Iterator[Callable[..., driver.Machine]]:
    """Makes a machine with chosen fields."""
    made: list[driver.Machine] = []

    def make(devices: int = 2, **fields: int) -> driver.Machine:
        made.append(driver.Machine(tmp_path, library, devices, **fields))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make_machine: Callable[..., driver.Machine]) -> driver.Machine:
    """A machine with two fake A100s."""
    return make_machine()


@pytest.fixture
def daemon(tmp_path: Path, machine: driver.Machine) -> Iterator[Daemon]:
    """A daemon on it that allows this user everything."""
    with Daemon(tmp_path, machine) as running:
        yield running


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users reach, as they reach /run; no other run of tests closes it."""
    with tempfile.TemporaryDirectory(prefix="voltana-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def in_process(machine: driver.Machine) -> Callable[..., Any]:
    """Runs Python code in a process of its own that loads the fake driver; `answer` comes back."""

    def run(code: str, **environment: str) -> Any:
        program = f"import json, sys\n{textwrap.dedent(code)}\nsys.stdout.write(json.dumps(answer))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=machine.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
