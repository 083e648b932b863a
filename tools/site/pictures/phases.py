"""The two phases of a request, and what either asks of a clock."""

from __future__ import annotations

from tools.site.pictures.canvas import BLUE, GREY, INK, ORANGE, PALE_BLUE, PALE_ORANGE, Canvas

FIRST, LAST, STEP = 390.0, 650.0, 52.0
"""Where the first token is, where the line ends, and from one token to the next."""

PREFILL = (
    "bound by arithmetic: time goes as 1 / clock",
    "the work is fixed, and idling follows",
    "so never below the clock of least energy",
    "as slow as the deadlines of the queue allow",
)
DECODE = (
    "bound by memory: slows less than the clock",
    "the GPU is busy at any clock",
    "a slower clock makes the batch grow",
    "as slow as ITL and the growing batch allow",
)


def draw() -> Canvas:
    """One request on a line of time; below it, what each phase is like."""
    canvas = Canvas(
        "A request waits, is prefilled in one go, moves its KV cache, and is decoded token by "
        "token; TTFT is the time to the first token, ITL the time between two",
        720,
        376,
    )
    canvas.text((46, 42), "arrival", size=13, anchor="start", color=GREY)
    canvas.line([(46, 54), (46, 122)], color=GREY, dashed=True)
    canvas.box((46, 64), (84, 48), "waits", fill="#ffffff", letters=14)
    canvas.box((130, 64), (176, 48), "prefill: the prompt", fill=PALE_BLUE, edge=BLUE)
    canvas.box((306, 64), (84, 48), "KV moves", fill="#ffffff", letters=14)
    for number in range(5):
        canvas.box((FIRST + STEP * number, 64), (STEP, 48), fill=PALE_ORANGE, edge=ORANGE)
        canvas.dot((FIRST + STEP * (number + 1), 88), color=ORANGE)
    canvas.text((FIRST + 2.5 * STEP, 42), "decode: token by token", size=15)
    canvas.span((46, 136), FIRST, "TTFT: time to the first token")
    canvas.span((FIRST + STEP, 136), FIRST + 2 * STEP, "ITL")
    canvas.text((FIRST + 3.6 * STEP, 153), "one iteration each", size=13, color=GREY)
    _side(canvas, 24, color=BLUE, fill=PALE_BLUE, name="Prefill", lines=PREFILL)
    _side(canvas, 368, color=ORANGE, fill=PALE_ORANGE, name="Decode", lines=DECODE)
    return canvas


def _side(
    canvas: Canvas, x: float, *, color: str, fill: str, name: str, lines: tuple[str, ...]
) -> None:
    canvas.box((x, 186), (328, 166), fill=fill, edge=color)
    canvas.text((x + 164, 208), name, size=16, bold=True, color=color)
    for number, words in enumerate(lines):
        canvas.text((x + 164, 242 + 29 * number), words, size=13.5, color=INK)
