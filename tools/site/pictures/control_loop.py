"""The control loop: who says what to whom, once an iteration."""

from __future__ import annotations

from tools.site.pictures.canvas import BLUE, GREY, PALE, PALE_BLUE, PALE_TEAL, TEAL, Canvas


def draw() -> Canvas:
    """Engine on the left, the loop in the middle, the two components of a policy on the right."""
    canvas = Canvas(
        "Engine and sensor tell the control loop what comes; the controller asks the predictor for "
        "a forecast and proposes a clock; the loop clamps it and commands the actuator; the "
        "outcome teaches the predictor",
        720,
        408,
    )
    canvas.box((24, 40), (150, 92), "engine\nreal or simulated", fill=PALE)
    canvas.box((24, 270), (150, 92), "actuator\nthe GPU's clock", fill=PALE)
    canvas.box((270, 24), (190, 354), fill=PALE_TEAL, edge=TEAL)
    canvas.text((365, 46), "ControlLoop", bold=True, color=TEAL, size=16)
    for number, (step, words) in enumerate(STEPS):
        canvas.text((286, 84 + 62 * number), f"{number + 1}", bold=True, color=TEAL, anchor="start")
        canvas.text((306, 84 + 62 * number), step, bold=True, anchor="start")
        canvas.text((306, 103 + 62 * number), words, size=12.5, anchor="start", color=GREY)
    canvas.box((546, 40), (150, 92), "Controller\nproposes a clock", fill=PALE_BLUE, edge=BLUE)
    words = "Predictor\nlatency and power\nat every clock"
    canvas.box((546, 270), (150, 92), words, fill=PALE_BLUE, edge=BLUE)
    canvas.arrow([(174, 86), (268, 86)], "Load, Queue", at=(221, 70))
    canvas.arrow([(270, 316), (176, 316)], "Command", at=(223, 300))
    canvas.arrow([(99, 268), (99, 134)], "runs at", at=(130, 200))
    canvas.arrow([(460, 72), (544, 72)], "Observation", at=(502, 56), color=BLUE)
    canvas.arrow([(546, 104), (462, 104)], "Decision", at=(504, 120), color=BLUE)
    canvas.arrow([(600, 132), (600, 268)], color=BLUE)
    canvas.text((592, 190), "load,\nclocks", size=13, color=BLUE, anchor="end")
    canvas.arrow([(645, 270), (645, 134)], color=BLUE)
    canvas.text((653, 210), "Forecast", size=13, color=BLUE, anchor="start")
    canvas.arrow([(460, 338), (544, 338)], "Outcome", at=(502, 322), color=TEAL)
    return canvas


STEPS = (
    ("sense", "what comes, the clock"),
    ("decide", "the policy proposes"),
    ("resolve", "clamp; the cap wins"),
    ("apply", "a command on a lease"),
    ("learn", "from what it took"),
)
