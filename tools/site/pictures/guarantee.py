"""The guarantee: a bound is issued, a label comes, the margin moves."""

from __future__ import annotations

from tools.site.pictures.canvas import GREY, INK, ORANGE, PALE_ORANGE, PALE_TEAL, TEAL, Canvas

BASE, TOP = 268.0, 60.0
LATENCIES = (0.42, 0.5, 0.38, 0.55, 0.47, 0.82, 0.44, 0.5, 0.4, 0.48, 0.46, 0.5)
"""Of twelve iterations, as shares of the height; one is above the bound in force."""

BUDGET = 0.9
FIRST_BOUND, RAISE, FALL = 0.72, 0.15, 0.012


def draw() -> Canvas:
    """Latencies over iterations, the bound over them, and the rule below."""
    canvas = Canvas(
        "Twelve iterations with their latency bounds below the budget: eleven hits lower the "
        "margin a little each, one miss raises it much more",
        720,
        420,
    )
    canvas.line([(64, TOP - 20), (64, BASE), (696, BASE)], color=GREY)
    canvas.text((40, (TOP + BASE) / 2), "latency", size=13, color=GREY)
    canvas.text(
        (380, BASE + 18),
        "certified iterations (moves of the bound not to scale)",
        size=13,
        color=GREY,
    )
    canvas.line([(64, _y(BUDGET)), (696, _y(BUDGET))], color=INK, dashed=True)
    canvas.text(
        (72, _y(BUDGET) - 12), "b: budget of the iteration, the SLO", size=13, anchor="start"
    )
    bound, edge = FIRST_BOUND, []
    for number, latency in enumerate(LATENCIES):
        x, miss = 84 + 51 * number, latency > bound
        edge += [(x - 20, _y(bound)), (x + 31, _y(bound))]
        canvas.line([(x + 5, BASE), (x + 5, _y(latency))], color=ORANGE if miss else TEAL, width=3)
        canvas.dot((x + 5, _y(latency)), color=ORANGE if miss else TEAL, radius=6)
        if miss:
            canvas.text((x - 10, _y(latency) - 1), "miss", size=13, color=ORANGE, anchor="end")
        bound += RAISE * 0.6 if miss else -FALL
    canvas.line(edge, color=TEAL, width=2.5)
    canvas.text((64 + 470, _y(0.62)), "u = m + q s: the bound, issued", size=13, color=TEAL)
    canvas.box((24, 308), (328, 88), fill=PALE_TEAL, edge=TEAL)
    canvas.text((188, 352), "hit: the margin q falls a little\nq  <-  q - gamma alpha", size=14)
    canvas.box((368, 308), (328, 88), fill=PALE_ORANGE, edge=ORANGE)
    canvas.text(
        (532, 352), "miss: it rises, far enough to pay\nq  <-  q + gamma (1 - alpha)", size=14
    )
    return canvas


def _y(share: float) -> float:
    return BASE - share * (BASE - TOP)
