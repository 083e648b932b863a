"""The notebooks of the documentation run, and say what they are stored with."""

from __future__ import annotations

import pytest

nbformat = pytest.importorskip("nbformat", reason="make setup brings nbclient and ipykernel")
from tools.site.notebooks import FOLDER, executed, outputs  # noqa: E402  (needs it as well)

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["guarantee", "policy", "simulate"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_says_what_it_is_stored_with(path, tmp_path) -> None:
    stored = outputs(nbformat.read(path, as_version=4))
    assert any(shown for cell in stored for shown in cell), "make pictures stores outputs"
    assert outputs(executed(path, tmp_path)) == stored
