"""A notebook as a page of the site: its cells in order, with the outputs that it is stored with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def notebook_page(path: Path) -> str:
    """Markdown of a notebook.

    Args:
        path: An ``.ipynb`` of format 4.

    Returns:
        Text cells as they are, code cells as blocks, and below each what it printed, its values
        and its pictures; and a link to the notebook itself.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_joined(cell["source"]) if cell["cell_type"] == "markdown" else _code(cell)
             for cell in cells]  # fmt: skip
    parts.append(f"[The notebook]({path.name}), to run it yourself.")
    return "\n\n".join(parts) + "\n"


def _code(cell: dict[str, Any]) -> str:
    shown = [f"```python\n{_joined(cell['source'])}\n```"]
    shown += [text for output in cell["outputs"] if (text := _output(output))]
    return "\n\n".join(shown)


def _output(output: dict[str, Any]) -> str:
    """What a reader sees of an output: a stream, a picture, or else the text of a value."""
    if output["output_type"] == "stream":
        return f"```text\n{_joined(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return _joined(data["image/svg+xml"])
    if "image/png" in data:
        return f"![what the cell drew](data:image/png;base64,{_joined(data['image/png']).strip()})"
    text = _joined(data.get("text/plain", ""))
    return f"```text\n{text}\n```" if text else ""


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
