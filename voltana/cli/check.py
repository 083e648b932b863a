"""`voltana check`: hold a user's component to its contract, and to the guarantee that it gives."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from voltana.testing import Report

FAILED = 1


def check(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="What makes your controller, router, latency or power predictor, actuator or "
            "level set.",
        ),
    ],
    role: Annotated[
        str, typer.Option(help="Role that a factory is told to control: prefill or decode.")
    ] = "decode",
    programs: Annotated[
        int, typer.Option(min=0, help="Random programs that attack the guarantee.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Seed of those programs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a component of your own: its port's contract, and the SLO guarantee that it gives.

    A predictor that issues no bound of its own is attacked inside the Conformal wrapper. An
    actuator is really driven: its clocks change, and are given back. Exit code 1 means that a check
    failed.

    \b
    voltana check mine:make_controller
    voltana check mine:MyRouter --json
    voltana check mine:LEVELS
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    from voltana.cli.check_suites import reports_on

    reports = reports_on(reference, role=role, programs=programs, seed=seed)
    typer.echo(_as_json(reference, reports) if as_json else _as_text(reference, reports))
    if not all(report.passed for report in reports):
        raise typer.Exit(FAILED)


def _as_text(reference: str, reports: "list[Report]") -> str:
    results = [result for report in reports for result in report.results]
    failed = sum(not result.passed for result in results)
    skipped = sum(result.passed and bool(result.detail) for result in results)
    verdict = f"{failed} of {len(results)} checks failed" if failed else f"{len(results)} checks ok"
    not_applicable = f", {skipped} of them not applicable" if skipped else ""
    body = "\n\n".join(str(report) for report in reports)
    return f"{body}\n\n{reference}: {verdict}{not_applicable}"


def _as_json(reference: str, reports: "list[Report]") -> str:
    return json.dumps(
        {
            "reference": reference,
            "passed": all(report.passed for report in reports),
            "suites": [
                {
                    "suite": report.subject,
                    "passed": report.passed,
                    "checks": [
                        {"name": r.name, "passed": r.passed, "detail": r.detail}
                        for r in report.results
                    ],
                }
                for report in reports
            ],
        },
        indent=2,
    )
