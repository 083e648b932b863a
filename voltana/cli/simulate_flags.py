"""The flags of `voltana simulate` alone; those that others share are in `scenario_flags`."""

import typer

from voltana.cli import scenario_flags as flags

POLICY = typer.Option(
    "--policy",
    metavar="P",
    help="Policy name, fixed:MHZ/MHZ, best-fixed, or MODULE:FACTORY of your own; repeat it (or use "
    "commas) for several (static-max, static-low, window, voltana-v0.1, voltana).",
)
RATE = flags.replayed_rate(60)
DURATION = flags.replayed_duration(120)
ARRIVAL = typer.Option(
    "--arrival", metavar="A", help="poisson, gamma (bursts), diurnal or rates (poisson)."
)
RATES = typer.Option(
    "--rates", metavar="FILE", help="CSV of rates over time, as ServeGen's, for --arrival rates."
)
RATES_START = typer.Option(
    "--rates-start", metavar="S", help="Where in the rates the run begins (0)."
)
CV = typer.Option("--cv", metavar="X", help="Variation of the gaps of gamma arrivals.")
UNIT = typer.Option(
    "--time-unit", metavar="U", help="Unit of the trace's times: s, ms, us or ns (auto)."
)
SCALE = typer.Option("--rate-scale", metavar="X", help="Replay this many times as fast (1).")
MAX_PROMPT = typer.Option("--max-prompt-tokens", metavar="N", help="Cut longer prompts.")
MAX_OUTPUT = typer.Option("--max-output-tokens", metavar="N", help="Cut longer answers.")
BUDGET = typer.Option(
    "--power-budget", metavar="W", help="Watts that all instances together may draw (no budget)."
)
SCHEDULE = typer.Option(
    "--budget-schedule",
    metavar="FILE",
    help="The same over time: CSV of times (s of the run, or ISO 8601) and watts from then on, or "
    "TOML or JSON, which may repeat.",
)
SHARES = typer.Option(
    "--power-shares",
    metavar="S",
    help="How it is divided over the instances: even, or worth, where a watt helps most (worth).",
)
LEVELS = typer.Option(
    "--levels",
    metavar="L",
    help="Clocks that may be chosen: all, published, even:N, above:MHZ, below:MHZ or a list such "
    "as 1005,1410 (each policy's own).",
)
PREDICTOR = typer.Option(
    "--predictor",
    metavar="M:F",
    help="MODULE:FACTORY of your own latency model, in place of the policies'.",
)
UNCERTAINTY = typer.Option(
    "--uncertainty",
    help="Give savings and attainments as ranges over what the hardware profile does not know: "
    "runs all policies on seven boards.",
)
OUT = typer.Option(
    "--out",
    metavar="DIR",
    help="Write plots, results.json, report.md, scenario.toml and series.json there.",
)
JSON = flags.as_json("the results")
