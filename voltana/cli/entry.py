"""Where the `voltana` command begins: so little is imported here that an interrupt is one line."""

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from voltana.cli.main import main as run
    except KeyboardInterrupt:  # of an impatient user, while it loads
        sys.stderr.write("voltana: interrupted\n")
        sys.exit(130)
    run()
