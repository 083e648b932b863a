"""The lease: steps of the loop renew it, and whatever ends them gives the clock back."""

from __future__ import annotations

from tools.site.pictures.canvas import GREY, INK, ORANGE, PALE, PALE_ORANGE, PALE_TEAL, TEAL, Canvas

LEFT, KILLED, BACK, RIGHT = 150.0, 430.0, 520.0, 690.0
LANES = {"agent": 72.0, "daemon": 150.0, "GPU clock": 250.0}

ELSE = (
    "Connection closed, daemon's worker killed, or all of it killed and started anew:\n"
    "the same, for a mark on disk says what is to be restored."
)


def draw() -> Canvas:
    """Three lanes over time: who commands, who holds the lease, and the clock."""
    canvas = Canvas(
        "An agent's completed steps renew its lease; when it hangs no step comes, the lease "
        "runs out, and the daemon restores the default clock",
        720,
        392,
    )
    for name, y in LANES.items():
        canvas.text((24, y), name, bold=True, anchor="start")
    canvas.box((LEFT, 50), (KILLED - LEFT, 44), "control steps", fill=PALE_TEAL, edge=TEAL)
    canvas.box(
        (KILLED, 50), (RIGHT - KILLED, 44), "hangs, or is gone", fill=PALE_ORANGE, edge=ORANGE
    )
    for x in range(170, 420, 42):
        canvas.arrow([(x, 94), (x, 126)], color=TEAL)
    canvas.box(
        (LEFT, 128), (BACK - LEFT, 44), "lease, renewed by each step", fill=PALE_TEAL, edge=TEAL
    )
    canvas.box((BACK, 128), (RIGHT - BACK, 44), "nobody's", fill=PALE, edge=GREY)
    canvas.line([(KILLED, 42), (KILLED, 300)], color=ORANGE, dashed=True)
    canvas.line([(BACK, 120), (BACK, 300)], color=TEAL, dashed=True)
    canvas.line(
        [(LEFT, 226), (190, 226), (190, 262), (260, 262), (260, 246), (330, 246), (330, 270),
         (BACK, 270), (BACK, 226), (RIGHT, 226)],
        color=INK, width=2.5,
    )  # fmt: skip
    canvas.text((RIGHT, 210), "default", size=13, color=GREY, anchor="end")
    canvas.text(
        (KILLED - 8, 290), "locked, at most for the lease", size=13, color=ORANGE, anchor="end"
    )
    canvas.span((KILLED, 312), BACK, "lease", color=ORANGE)
    canvas.text((24, 364), ELSE, size=13, color=GREY, anchor="start")
    return canvas
