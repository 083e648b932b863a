"""The page of the documentation that a run on a machine with a GPU fills: ``docs/gpu.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.documents import markdown_table, put_between

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BEGIN = "<!-- gpu: begin (written by `python -m benchmarks.gpu`) -->"
END = "<!-- gpu: end -->"
_EMPTY = f"# Measured on a GPU\n\n{BEGIN}\n{END}\n"


def write_page(path: Path, figures: Mapping[str, Any]) -> None:
    """Put the figures of a run into a page, which is made if it is not there."""
    if not path.exists():
        path.write_text(_EMPTY, encoding="utf-8")
    put_between(path, BEGIN, END, page(figures))


def page(figures: Mapping[str, Any]) -> str:
    """The figures of a run in Markdown, as far as they are there."""
    about = figures["about"]
    parts = [
        f"{about['boards']} x {about['board']}, driver {about['driver']}; model "
        f"`{about['model']}`, engine arguments `{about['arguments'] or 'none'}`. Each point was "
        f"held for {about['hold_s']:g} s; no setting of the GPU was changed."
    ]
    if "idle" in figures:
        idle = figures["idle"]
        parts.append(
            f"Idle for {idle['seconds']:g} s: {_number(idle['sensor_w'])} W by the sensor, "
            f"{_number(idle['counter_w'])} W by the energy counter, {_number(idle['clock_mhz'])} "
            "MHz."
        )
    for step, head in (("decode", "batch x context"), ("prefill", "prompt tokens")):
        if figures.get(step):
            parts += [f"## {step.capitalize()}", _grid(head, figures[step])]
    if "load" in figures:
        parts += ["## Under load, in dry run", _load(figures["load"])]
    if "toggled" in figures:
        said = figures["toggled"]
        parts.append(
            "Time of a decode iteration with hooks off over that with hooks on, in turns within "
            f"one server: {said.get('wall_ratio', 'too few blocks')} (CPU time of the scheduler: "
            f"{said.get('cpu_ratio', '-')})."
        )
    return "\n\n".join(parts)


def _grid(head: str, points: Mapping[str, Mapping[str, Any]]) -> str:
    heads = (head, "iterations", "median (ms)", "p99 (ms)", "plant (ms)", "plant's error",
             "clock (MHz)", "power (W)", "by the counter (W)", "plant (W)",
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
