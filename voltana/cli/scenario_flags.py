"""Flags that several commands share: what they run, as they lay it over a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.evaluation.tariff import Tariff

DEFAULT_CURRENCY = "EUR"
PRICE = typer.Option(
    "--price", metavar="X|FILE", help="Price of a kWh, or CSV of times and prices."
)
CURRENCY = typer.Option("--currency", metavar="C", help="Currency of the price.")
CARBON = typer.Option(
    "--carbon", metavar="X|FILE", help="gCO2e of a kWh, or CSV of times and intensities."
)
CARBON_UNIT = "gCO2e"

SCENARIO = typer.Argument(metavar="SCENARIO.toml", help="Scenario file; flags win over it.")
WORKLOAD = typer.Option("--workload", metavar="W", help="Named request lengths (sharegpt).")
HARDWARE = typer.Option("--hardware", metavar="H", help="Profile or file (a100-sxm4-80gb).")
MODEL = typer.Option(
    "--model", metavar="M", help="Profile, or a Hugging Face config.json (llama-3.1-8b)."
)
TENSOR_PARALLEL = typer.Option(
    "--tensor-parallel", "--tp", metavar="N", help="GPUs of an instance (the model's default)."
)
PREFILL = typer.Option("--prefill", metavar="N", help="Prefill instances (2).")
DECODE = typer.Option("--decode", metavar="N", help="Decode instances (2).")
COLOCATED = typer.Option(
    "--colocated", metavar="N", help="Instances for both phases; alone unless pairs are named (0)."
)
BINDING = typer.Option(
    "--binding",
    metavar="B",
    help="When the decode instance is chosen: early, or late, after the prefill (early).",
)
TTFT = typer.Option(
    "--slo-ttft-ms", metavar="X", help="Threshold of the time to first token (600)."
)
ITL = typer.Option("--slo-itl-ms", metavar="X", help="Threshold of the inter-token latency (65).")
TRACE = typer.Option("--trace", metavar="FILE", help="Replay this trace, gzipped or not.")
TRACE_FORMAT = typer.Option(
    "--trace-format", metavar="F", help="Format of the trace (auto: look at the columns)."
)
WINDOW_START = typer.Option("--window-start", metavar="S", help="Replay from this second on (0).")
SEED = typer.Option("--seed", metavar="N", help="Seed of everything random (0).")
RATE = typer.Option("--rate", metavar="R", help="Mean requests/s (60).")
LOG = typer.Option("--log-level", metavar="L", help="debug logs every decision.")


def replayed_rate(default: float) -> Any:
    """The flag of a rate in requests/s, of commands that replay traces as well."""
    said = f"Mean requests/s ({default:g}); a trace is scaled to it."
    return typer.Option("--rate", metavar="R", help=said)


def replayed_duration(default: float) -> Any:
    """The flag of a duration in seconds, of commands that replay traces as well."""
    said = f"Seconds of arrivals ({default:g}); of a trace, its window."
    return typer.Option("--duration", metavar="S", help=said)


def as_json(what: str) -> Any:
    """The flag that writes `what` as JSON."""
    said = f"Write {what} as JSON; '-' is standard output."
    return typer.Option("--json", metavar="FILE", help=said)


def text(file: Path | None) -> str | None:
    """A file as scenarios name it; None where it was not given."""
    return None if file is None else str(file)


def policy_names(given: list[str] | None) -> list[str] | None:
    """Names from a flag that may be repeated and may hold commas; None where it was not given."""
    return [name for text in given for name in text.split(",")] if given else None


def tariffs(price: str | None, currency: str, carbon: str | None) -> dict[str, Tariff]:
    """What was given of price and intensity, by what it counts.

    Raises:
        ConfigError: If one is none, or the currency is no word of its own.
    """
    from voltana.errors import invalid
    from voltana.evaluation.tariff import read_tariff

    word = currency.strip()
    if not (word and word.isprintable()) or word.lower() == CARBON_UNIT.lower():
        raise invalid(
            "currency", currency, f"a word other than {CARBON_UNIT}", "Such as EUR, USD or JPY."
        )
    made = {}
    if price is not None:
        made[currency] = read_tariff("price", price)
    if carbon is not None:
        made[CARBON_UNIT] = read_tariff("carbon", carbon)
    return made
