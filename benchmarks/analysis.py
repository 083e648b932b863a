"""How far is the linear model of a decode instance from the event simulation?

``python -m benchmarks.analysis`` steps the clock in the cases that the tests assert, and prints the
errors of docs/analysis.md as a Markdown table. It takes some minutes.
"""

from __future__ import annotations

import argparse

from tests.analysis_steps import MORE_STEPS, QUICK_STEP


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| GPU | model | requests/s | clock, of the fastest | seeds | latency | batch |")
    print("|---|---|---|---|---|---|---|")
    for case in (QUICK_STEP, *MORE_STEPS):
        errors = case.errors()
        print(
            f"| {case.hardware} | {case.model} | {case.rate_rps:g} | {case.share:.0%} "
            f"| {case.seeds} | {errors['latency']:.1%} | {errors['batch']:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
