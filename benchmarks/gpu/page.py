"""Pages of the documentation that runs on machines with GPUs fill: ``docs/gpu-h100.md`` and others.

``python -m benchmarks.gpu.page`` writes them anew from the runs that are committed (``measured/``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.documents import markdown_table, put_between

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGIN = "<!-- gpu: begin (written by `python -m benchmarks.gpu`) -->"
END = "<!-- gpu: end -->"
MEASURED = Path(__file__).with_name("measured")
DOCS = Path(__file__).parents[2] / "docs"
BOARDS = ("h100", "h200")
"""A page for each, of the runs whose names begin so."""

_EMPTY = f"# Measured on a GPU\n\n{BEGIN}\n{END}\n"


def write_page(path: Path, *runs: Mapping[str, Any]) -> None:
    """Put the figures of runs into a page, which is made if it is not there."""
    if not path.exists():
        path.write_text(_EMPTY, encoding="utf-8")
    put_between(path, BEGIN, END, "\n\n".join(page(figures) for figures in runs))


def page(figures: Mapping[str, Any]) -> str:
    """The figures of a run in Markdown, as far as they are there."""
    about = figures["about"]
    parts = [
        f"## {about['model']} on {about['boards']} x {about['board']}"
        + (f": {about['variant']}" if "variant" in about else ""),
        f"Driver {about['driver']}{''.join(', ' + about[k] for k in _FURTHER if k in about)}; "
        f"engine arguments `{about['arguments'] or 'none'}`. Each point was held for "
        f"{about['hold_s']:g} s; no setting of the GPU was changed.",
    ]
    watched = [
        (words, figures[step]) for step, words in _WATCHED if "clock_mhz" in figures.get(step, {})
    ]
    if watched:
        heads = ("the board", "clock (MHz)", "power (W)", "by the counter (W)")
        keys = ("clock_mhz", "sensor_w", "counter_w")
        parts.append(
            markdown_table(
                heads, [(w, *(_number(said[key]) for key in keys)) for w, said in watched]
            )
        )
    if "calls" in figures:
        heads = ("reading", "p50 (us)", "p99 (us)", "CPU time (us)")
        keys = ("p50_us", "p99_us", "cpu_us")
        calls = figures["calls"].items()
        parts.append(
            markdown_table(heads, [(n, *(_number(c.get(key)) for key in keys)) for n, c in calls])
        )
    for step, head in (("decode", "batch x context"), ("prefill", "prompt tokens")):
        if figures.get(step):
            parts += [f"### {step.capitalize()}", _grid(head, figures[step])]
    if "load" in figures:
        parts += ["### Under load, in dry run", _load(figures["load"])]
        parts += _iterations(figures["load"].get("iterations", {}))
    if "toggled" in figures:
        said = figures["toggled"]
        parts.append(
            "Time of a decode iteration with hooks off over that with hooks on, in turns within "
            f"one server: {said.get('wall_ratio', 'too few blocks')} (CPU time of the scheduler: "
            f"{said.get('cpu_ratio', '-')})."
        )
    return "\n\n".join(parts)


_FURTHER = ("engine", "weights", "date")
"""What a run that is committed says beyond what a run knows of itself."""

_WATCHED = (
    ("idle", "alone"),
    ("held_open", "held open by a process that does nothing"),
    ("served_idle", "under a server without requests"),
    ("products", "multiplying matrices"),
)


def _grid(head: str, points: Mapping[str, Mapping[str, Any]]) -> str:
    heads = (head, "iterations", "median (ms)", "CUDA events (ms)", "p99 (ms)", "plant (ms)",
             "plant's error", "clock (MHz)", "power (W)", "by the counter (W)", "plant (W)",
             "plant's error")  # fmt: skip
    rows = []
    for name, point in points.items():
        if "skipped" in point:
            rows.append((name, "0", point["skipped"], *[""] * (len(heads) - 3)))
            continue
        rows.append(
            (
                name,
                str(point["iterations"]),
                _number(point["median_ms"]),
                _number(point.get("engine_median_ms")),
                _number(point["p99_ms"]),
                _number(point.get("plant_ms")),
                _percent(point.get("plant_time_error")),
                _number(point["clock_mhz"]),
                _number(point["sensor_w"]),
                _number(point["counter_w"]),
                _number(point.get("plant_w")),
                _percent(point.get("plant_power_error")),
            )
        )
    return markdown_table(heads, rows)


def _load(load: Mapping[str, Any]) -> str:
    plugin, agent, hooks = load["plugin"], load["agent"], load["hooks"]
    rows = [
        ("requests", f"{load['requests']} in {load['seconds']:g} s"),
        ("prompt tokens, by the plugin and sent",
         f"{plugin['prompt_tokens']} / {plugin['prompt_tokens_sent']}"),
        ("decoded tokens, by the plugin and answered",
         f"{plugin['decoded_tokens']} / {plugin['decoded_tokens_answered']}"),
        ("records lost, torn", f"{plugin['lost']}, {plugin['torn']}"),
        *(
            (f"{phase}: error of the predictor, and of the mean (ms)",
             f"{_number(said['mae_ms'])} / {_number(said['mean_predictor_mae_ms'])}")
            for phase, said in agent["prediction"].items()
        ),
        ("decisions", ", ".join(f"{n} {word}" for word, n in agent["decisions"].items())),
        ("agent's share of a core", _percent(agent["cpu_share"])),
        ("hooks per iteration, p50 and p99 (us)",
         f"{_number(hooks.get('p50_us'))} / {_number(hooks.get('p99_us'))}"),
    ]  # fmt: skip
    return markdown_table(("what", "measured"), rows)


def _iterations(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not kinds:
        return []
    heads = ("iterations under load", "how many", "median (ms)", "p99 (ms)", "CUDA events (ms)",
             "their p99 (ms)", "plugin over events", "plant (ms)", "plant's error")  # fmt: skip
    rows = [
        (
            kind,
            str(said["iterations"]),
            _number(said["median_ms"]),
            _number(said["p99_ms"]),
            _number(said.get("engine_median_ms")),
            _number(said.get("engine_p99_ms")),
            _percent(said.get("over_engine")),
            _number(said.get("plant_ms")),
            _percent(said.get("plant_time_error")),
        )
        for kind, said in kinds.items()
    ]
    return [markdown_table(heads, rows)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


if __name__ == "__main__":
    for board in BOARDS:
        paths = sorted(MEASURED.glob(f"{board}-*.json"))
        write_page(DOCS / f"gpu-{board}.md", *(json.loads(path.read_text()) for path in paths))
