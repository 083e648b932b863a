"""``python -m voltana_sglang.rehearsal``: ``voltana-sglang``, whose launch starts virtual servers.

Everything else is the command of production.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from voltana.cli.running import run
from voltana_sglang.cli import COMMANDS, make_app

if TYPE_CHECKING:
    from voltana.serving.dialect import Dialect


def main() -> None:
    """Run the command line."""
    first = sys.argv[1] if len(sys.argv) > 1 else None
    app = make_app(first if first in COMMANDS else None, dialect=_rehearsed)
    run(app, "voltana-sglang (rehearsal)")


def _rehearsed() -> Dialect:
    from voltana_sglang.dialect.commands import sglang_dialect  # noqa: PLC0415
    from voltana_sglang.rehearsal.plan import VirtualServers  # noqa: PLC0415

    return dataclasses.replace(sglang_dialect(), servers=VirtualServers())


if __name__ == "__main__":
    main()
