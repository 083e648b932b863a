"""The command ``voltana-sglang``: one thin file a subcommand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cli.integration import COMMANDS as SHARED
from voltana.cli.integration import Program

if TYPE_CHECKING:
    from voltana.serving.dialect import Dialect

COMMANDS = {**SHARED, "steer": "voltana_sglang.steer_command:steer"}
"""Subcommands and where they are."""


def _dialect() -> Dialect:
    from voltana_sglang.dialect.commands import sglang_dialect  # noqa: PLC0415  (--help is quick)

    return sglang_dialect()


PROGRAM = Program(
    name="voltana-sglang",
    engine="SGLang",
    distributions=("sglang",),
    commands=COMMANDS,
    dialect=_dialect,
)

make_app = PROGRAM.make_app
main = PROGRAM.main
