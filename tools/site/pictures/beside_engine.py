"""Beside a real engine: the processes, and what goes from one to the other."""

from __future__ import annotations

from tools.site.pictures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    PALE_BLUE,
    PALE_ORANGE,
    PALE_TEAL,
    TEAL,
    Canvas,
)


def draw() -> Canvas:
    """Router above, then engine, agent and daemon from left to right."""
    canvas = Canvas(
        "The plugin's hooks in the engine's process write records into a ring; the agent reads "
        "them, decides, commands the daemon, and tells the router its state over a feed",
        720,
        372,
    )
    canvas.box((24, 40), (96, 56), "clients", fill="#ffffff")
    canvas.box((232, 40), (256, 56), "router", fill=PALE_BLUE, edge=BLUE, bold=True)
    canvas.arrow([(120, 68), (230, 68)], "request", at=(175, 54), color=BLUE)
    _process(canvas, 24, "the engine's process", ("hooks", "ring, in memory"), GREY)
    _process(canvas, 265, "agent, one an instance", ("ControlLoop", "client"), TEAL)
    _process(canvas, 506, "daemon, root", ("worker: leases", "driver"), ORANGE)
    canvas.arrow([(262, 96), (150, 166)], "request", at=(178, 122), color=BLUE)
    canvas.arrow([(360, 168), (360, 98)], color=TEAL)
    canvas.text((370, 134), "feed: state, latency model", size=13, color=TEAL, anchor="start")
    canvas.arrow([(214, 300), (238, 300), (238, 244), (282, 244)], color=TEAL)
    canvas.text((240, 322), "bell", size=13, color=TEAL)
    canvas.arrow([(438, 300), (478, 300), (478, 244), (522, 244)], color=ORANGE)
    canvas.text((480, 322), "lease", size=13, color=ORANGE)
    words = "No privilege but the daemon's, and nobody waits for anybody else."
    canvas.text((360, 354), words, size=13, color=GREY)
    return canvas


WIDTH = 190
FILLS = {GREY: PALE, TEAL: PALE_TEAL, ORANGE: PALE_ORANGE}


def _process(canvas: Canvas, x: float, name: str, parts: tuple[str, str], edge: str) -> None:
    """A process with two of its parts, the first of which feeds the second."""
    canvas.box((x, 168), (WIDTH, 166), fill=FILLS[edge], edge=edge)
    canvas.text((x + WIDTH / 2, 190), name, bold=True, color=edge, size=14)
    for number, part in enumerate(parts):
        corner, size = (x + 16, 220 + 56 * number), (WIDTH - 32, 46)
        canvas.box(corner, size, part, fill="#ffffff", edge=edge, letters=14)
    canvas.arrow([(x + WIDTH / 2, 266), (x + WIDTH / 2, 276)], color=edge)
