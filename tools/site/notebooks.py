"""Runs the notebooks of the documentation: ``python -m tools.site.notebooks`` stores what they say.

They are stored with their outputs, so that they can be read where nothing runs them; the tests run
them again and hold the outputs against what is stored.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
TIMEOUT_S = 300
"""For one cell, on a machine that others use too."""


def executed(path: Path, folder: Path) -> NotebookNode:
    """A notebook after all of its cells have run.

    Args:
        path: The notebook; the file stays as it is.
        folder: Where it runs, and where its cells write.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        coalesce_streams=True,  # what is printed comes in pieces, as the machine has it
        resources=resources,
    )
    client.execute()
    return notebook


def outputs(notebook: NotebookNode) -> list[list[str]]:
    """What each code cell shows: its text, and that it drew something, in order."""
    return [
        [_shown(output) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    data = output.get("data", {})
    return "a picture" if "image/png" in data else str(data.get("text/plain", ""))


def _without_times(notebook: NotebookNode) -> NotebookNode:
    """The same without what differs from run to run and from machine to machine."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
                if "metadata" in output:
                    output.metadata = {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def main() -> None:
    """Run all of them, or those that are named, and store them with what they said."""
    wanted = sys.argv[1:]
    for path in (
        path for path in sorted(FOLDER.glob("*.ipynb")) if path.stem in wanted or not wanted
    ):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(_without_times(executed(path, Path(folder))), path)


if __name__ == "__main__":
    main()
