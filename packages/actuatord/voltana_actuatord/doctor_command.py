"""``voltana-actuatord doctor``: what a host lacks where only the daemon is installed."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from voltana_actuatord.doctor import Verdict, examine
from voltana_actuatord.protocol import DEFAULT_SOCKET

if TYPE_CHECKING:
    from voltana_actuatord.doctor import Finding


def main(arguments: list[str]) -> int:
    """Look at this host and print what was found; changes nothing.

    Returns:
        Exit status: 1 if something is missing.
    """
    parser = argparse.ArgumentParser(prog="voltana-actuatord doctor", description=__doc__)
    parser.add_argument("--socket", default=DEFAULT_SOCKET, help="where the daemon listens")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    findings = list(examine(None, options.socket))
    if options.json:
        sys.stdout.write(json.dumps({"findings": [asdict(f) for f in findings]}) + "\n")
    else:
        sys.stdout.writelines(f"{told(finding)}\n" for finding in findings)
    return int(any(finding.verdict is Verdict.MISSING for finding in findings))


def told(finding: Finding) -> str:
    """A finding as one line."""
    return f"{finding.verdict.value:8s}{finding.subject}: {finding.text}"
