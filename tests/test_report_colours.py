"""Colours of a report: readable on their page, and told apart, also by colour-blind readers."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from voltana.evaluation.report.figures import COLOURS, INK, Palette

CONTRAST = 3.0
"""Of graphical objects, WCAG 2.2, 1.4.11."""

APART, APART_COLOUR_BLIND = 0.15, 0.10
"""Least distances in OKLab, in which 0.02 is just noticeable."""

VIEWERS = {
    "all": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
}  # fmt: skip
"""What they see of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1)."""

TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def theme(name):
    """The colours of a theme, by their names in the style."""
    style = resources.files("voltana.evaluation.report").joinpath("page.css").read_text()
    block = re.search(r"{[^}]*color-scheme: " + name + r";([^}]*)}", style)[1]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))


def linear(colour):
    """Linear RGB of ``#rrggbb``."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    dark, light = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return (light + 0.05) / (dark + 0.05)


def distance(one, other, seen):
    labs = [TO_LAB @ np.cbrt(TO_CONES @ np.clip(seen @ linear(c), 0, 1)) for c in (one, other)]
    return float(np.linalg.norm(labs[0] - labs[1]))


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_colour_is_seen_and_no_two_are_alike(name):
    colours = theme(name)
    drawn = {key: colours[key] for key in (*(f"c{n}" for n in range(COLOURS)), INK)}
    for key, colour in drawn.items():
        for below in ("bg", "panel"):
            assert contrast(colour, colours[below]) >= CONTRAST, (key, below)
    for (one, first), (other, second) in itertools.combinations(drawn.items(), 2):
        for viewer, seen in VIEWERS.items():
            least = APART if viewer == "all" else APART_COLOUR_BLIND
            assert distance(first, second, seen) >= least, (viewer, one, other)


def test_names_beyond_the_colours_differ_by_dashes_and_symbols():
    palette = Palette()
    names = [f"policy {n}" for n in range(3 * COLOURS)]
    lines = {tuple(sorted(palette.line(name).items())) for name in names}
    points = {tuple(sorted(palette.marker(name).items())) for name in names}
    assert len(lines) == len(points) == len(names)
