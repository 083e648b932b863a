"""`voltana actuator`: run the privileged daemon, look at it, hold a lease, restore, diagnose."""

import json
import math
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from voltana.cli.terminal import write_text
from voltana.errors import invalid

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULT_SOCKET = "/run/voltana/actuator.sock"
STEP_S = 0.2
GPUS = "UUIDs, or indices as this process counts them, such as 0,1."
NOT_HELD = 1
"""Exit code of a lease that held nothing at its end."""

Socket = Annotated[str, typer.Option("--socket", help="Where the daemon listens.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def actuator() -> None:
    """Control the clocks of GPUs through a small privileged daemon."""


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="Its configuration (TOML).")] = Path(
        "/etc/voltana/actuatord.toml"
    ),
) -> None:
    """Run the daemon here, as root; the same as voltana-actuatord."""
    command = [sys.executable, "-m", "voltana_actuatord.daemon.command", "--config", str(config)]
    os.execv(sys.executable, command)  # a fresh process: the daemon stays small


@app.command()
def status(socket: Socket = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """Say who holds which clocks."""
    from voltana_actuatord.console import daemon_status

    answer = daemon_status(socket)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"worker {answer['pid']}, up {answer['uptime_s']:.0f} s")
    if not answer["leases"]:
        typer.echo("no leases: every GPU is at its default clocks or on its way there")
    for lease in answer["leases"]:
        devices = ", ".join(lease["devices"])
        target = lease["target_mhz"]
        holds = f"{target:g} MHz, {lease['left_s']:.1f} s left" if target else "default clocks"
        typer.echo(
            f"  {lease['domain']}: {devices}, pid {lease['pid']}, uid {lease['uid']}: {holds}, "
            f"step {lease['sequence']}"
        )
    for gpu in answer["gpus"]:
        state = "at its default clocks" if gpu["at_default"] else "not at its default clocks"
        typer.echo(f"  {gpu['uuid']} is {state}")
    if answer["last_error"]:
        typer.echo(f"last error: {answer['last_error']}")


@app.command()
def lease(
    clock: Annotated[float, typer.Argument(help="Clock in MHz.")],
    gpus: Annotated[str, typer.Option(help=f"GPUs that change as one. {GPUS}")] = "0",
    seconds: Annotated[float, typer.Option(help="For how long; 0 until Ctrl-C.")] = 0.0,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Hold a clock by hand: to try the daemon out, or to measure at a fixed clock.

    Exit code 1 means that it did not hold at the end.
    """
    from voltana.values import Command, Domain
    from voltana_actuatord.client import ActuatorProcess
    from voltana_actuatord.gpu_names import gpu_uuids

    domain = Domain(name=f"by hand, pid {os.getpid()}", devices=gpu_uuids(_named(gpus)))
    held = ActuatorProcess(domain, socket_path=socket)
    ends_s = time.monotonic() + seconds if seconds > 0 else math.inf
    said, failed = "", False
    try:
        step = 0
        while time.monotonic() < ends_s:
            held.apply(Command(domain=domain, clock_mhz=clock, sequence=step))
            step += 1
            time.sleep(STEP_S)
            now = held.status()
            failed = bool(now.error)
            text = now.error or f"running at {now.clock_mhz:g} MHz"
            if text != said:
                typer.echo(text)
                said = text
    finally:
        held.close()
    if failed:
        raise typer.Exit(NOT_HELD)


@app.command()
def restore(
    socket: Socket = DEFAULT_SOCKET,
    direct: Annotated[
        str, typer.Option(help=f"GPUs to reset without the daemon, as root. {GPUS}")
    ] = "",
) -> None:
    """Give the default clocks back: your own leases, or everybody's if you are root."""
    if direct:
        from voltana_actuatord.daemon.restore import restore_gpu
        from voltana_actuatord.drivers.opening import open_driver

        with closing(open_driver()) as driver:
            for name in _named(direct):
                gpu = driver.gpu(name)
                restore_gpu(gpu)
                typer.echo(f"{gpu.uuid} is at its default clocks")
        return
    from voltana_actuatord.console import restore_all

    devices = restore_all(socket)
    listed = ", ".join(devices) or "none (no lease was yours)"
    typer.echo(f"restored: {listed}")


@app.command()
def doctor(
    *,
    gpus: Annotated[str, typer.Option(help=f"GPUs to look at; all by default. {GPUS}")] = "",
    socket: Socket = DEFAULT_SOCKET,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time clock changes too: changes clocks, needs root.")
    ] = False,
    levels: Annotated[str, typer.Option(help="Levels to time changes between.")] = "even:3",
    profile: Annotated[
        str, typer.Option(help="Hardware profile to write the times into, by name or file.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Where the profile goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say in plain words what is missing, and time clock changes; reads only unless --measure."""
    from dataclasses import asdict

    from voltana_actuatord.doctor import Verdict, examine
    from voltana_actuatord.doctor_command import told

    if bool(profile) != (out is not None) or (profile and not measure):
        raise invalid("--profile", profile, "given with --measure and --out", "Give all three.")
    names = _named(gpus) if gpus else None
    findings = list(examine(names, socket))
    timings: list[dict[str, float | None]] = []
    if measure:
        name = (names or (0,))[0]
        _refuse_leased(name, socket)
        timings = _measure(name, levels, profile, out)
    if as_json:
        report = {"findings": [asdict(f) for f in findings], "timings": timings}
        typer.echo(json.dumps(report))
    else:
        for finding in findings:
            typer.echo(told(finding))
        for row in timings:
            settles = row["settle_s"]
            when = "never seen to settle" if settles is None else f"settles in {_ms(settles)}"
            typer.echo(
                f"{row['from_mhz']:6g} -> {row['to_mhz']:<6g} MHz: "
                f"call {_ms(row['call_s'])}, {when}"
            )
    if any(finding.verdict is Verdict.MISSING for finding in findings):
        raise typer.Exit(1)


def _refuse_leased(name: str | int, socket: str) -> None:
    """Check that nobody controls the GPU whose clock is about to be changed."""
    from voltana.errors import ActuatorError
    from voltana_actuatord.console import daemon_status
    from voltana_actuatord.gpu_names import gpu_uuids

    try:
        leases = daemon_status(socket)["leases"]
    except ActuatorError:
        return  # no daemon, no lease
    (uuid,) = gpu_uuids([name])
    if any(lease["active"] and uuid in lease["devices"] for lease in leases):
        raise invalid("--measure", uuid, "a GPU without a lease", "Stop its owner first.")


def _measure(
    gpu_name: str | int, levels: str, profile: str, out: Path | None
) -> list[dict[str, float | None]]:
    from dataclasses import asdict

    from voltana.levels import parse_levels
    from voltana_actuatord.doctor import measure
    from voltana_actuatord.drivers.opening import open_driver

    with closing(open_driver()) as driver:
        gpu = driver.gpu(gpu_name)
        gpu.refuse_partitioned()
        table, name = gpu.clocks_mhz(), gpu.name()
        source = f"measured by voltana actuator doctor on {name}, driver {driver.version()}"
        timings = measure(gpu, parse_levels(levels).levels(table))
    if out is not None:
        from voltana.plant.measured_clocks import with_measured_clocks
        from voltana.plant.profile_files import profile_text

        pairs = [(t.from_mhz, t.to_mhz, t.call_s, t.settle_s) for t in timings]
        text = with_measured_clocks(
            profile_text(profile), table_mhz=table, pairs=pairs, source=source
        )
        write_text(out, text)
    return [
        {name: None if math.isnan(value) else value for name, value in asdict(timing).items()}
        for timing in timings
    ]


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1e3 * seconds:.2f} ms"


def _named(text: str) -> tuple[str | int, ...]:
    from voltana_actuatord.gpu_names import parse_gpus

    names = parse_gpus(text)
    if not names:
        raise invalid("gpus", text, "one GPU or more, such as 0,1", "See voltana actuator doctor.")
    return names
