"""The notebooks of the documentation run, and say what they are stored with."""

from __future__ import annotations

import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="make setup brings nbclient and ipykernel")
from tools.site.notebooks import FOLDER, executed, outputs  # noqa: E402  (needs it as well)

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["guarantee", "policy", "simulate"]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def told(cells) -> tuple[list[list[str]], list[float]]:
    """What cells say without their figures, and the figures."""
    words = [[" ".join(NUMBER.sub("#", text).split()) for text in cell] for cell in cells]
    return words, [
        float(found) for cell in cells for text in cell for found in NUMBER.findall(text)
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_says_what_it_is_stored_with(path, tmp_path) -> None:
    """The same words and pictures; figures as far as a change of a policy's numbers moves them."""
    stored_words, stored = told(outputs(nbformat.read(path, as_version=4)))
    words, figures = told(outputs(executed(path, tmp_path)))
    assert any(text for cell in stored_words for text in cell), "make pictures stores outputs"
    assert words == stored_words
    assert figures == pytest.approx(stored, rel=0.1, abs=5.0), "make pictures"
