"""What voltana does, in one picture: the README's."""

from __future__ import annotations

from tools.site.pictures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    PALE_TEAL,
    TEAL,
    Canvas,
)

POOLS = (("prefill", 205, (0.55, 0.8), BLUE), ("decode", 445, (0.35, 0.62), ORANGE))


def draw() -> Canvas:
    """Requests through two pools above, the loop that sets their clocks below."""
    canvas = Canvas(
        "voltana routes each request to a prefill and a decode instance, and sets every clock by a "
        "loop of measuring, predicting, choosing, setting and learning",
        720,
        400,
    )
    canvas.box((24, 70), (110, 60), "requests", fill="#ffffff")
    canvas.arrow([(134, 100), (200, 100)])
    canvas.text((167, 84), "route", size=13, color=TEAL, bold=True)
    for name, x, clocks, color in POOLS:
        _pool(canvas, name, x, clocks, color)
    canvas.arrow([(385, 100), (440, 100)])
    canvas.text((412, 84), "KV", size=13, color=GREY)
    canvas.arrow([(625, 100), (700, 100)])
    canvas.text((662, 84), "tokens", size=13, color=GREY)
    _loop(canvas)
    return canvas


def _pool(canvas: Canvas, name: str, x: float, clocks: tuple[float, ...], color: str) -> None:
    """A pool of instances, each with a bar as high as its clock."""
    fill = PALE_BLUE if color == BLUE else PALE_ORANGE
    canvas.box((x, 24), (180, 152), fill=fill, edge=color)
    canvas.text((x + 90, 44), f"{name} instances", size=15, bold=True, color=color)
    for number, clock in enumerate(clocks):
        left = x + 28 + 72 * number
        canvas.box((left, 66), (52, 84), fill="#ffffff", edge=color)
        canvas.box((left + 14, 146 - 76 * clock), (24, 76 * clock), fill=color, edge=color)
    canvas.text((x + 90, 163), "clock of each GPU", size=13, color=color)


STEPS = (
    ("measure", "each iteration:\nload, time, energy"),
    ("predict", "latency and power\nat every clock"),
    ("choose", "least energy that\nkeeps the SLO"),
    ("set", "the clock, on a\nlease that ends"),
)


def _loop(canvas: Canvas) -> None:
    """The four steps, and what comes back from the last to the first."""
    canvas.box((24, 216), (672, 160), fill=PALE_TEAL, edge=TEAL)
    for number, (name, words) in enumerate(STEPS):
        left = 44 + 162 * number
        canvas.box((left, 236), (142, 84), fill="#ffffff", edge=TEAL)
        canvas.text((left + 71, 254), name, bold=True, color=TEAL)
        canvas.text((left + 71, 290), words, size=13)
        if number:
            canvas.arrow([(left - 20, 278), (left, 278)], color=TEAL)
    canvas.line([(601, 320), (601, 350), (115, 350), (115, 320)], color=TEAL, arrow=True)
    canvas.text((358, 362), "learn from what the iteration really took", size=13, color=TEAL)
    canvas.arrow([(295, 178), (295, 214)], color=TEAL)
    canvas.arrow([(535, 214), (535, 178)], color=TEAL)
    canvas.text((258, 197), "records", size=13, color=TEAL)
    canvas.text((576, 197), "clocks", size=13, color=TEAL)
