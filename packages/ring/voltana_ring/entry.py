"""Where the commands of integrations begin: they need an extra, which an engine does without."""

from __future__ import annotations

import importlib
import sys

MISSING = 2


def start(package: str) -> None:
    """Run the command line of an integration, or name what it lacks in one line.

    Args:
        package: Its package, whose module ``cli`` has the command line.
    """
    try:
        importlib.import_module(f"{package}.cli").main()
    except ImportError as error:
        if not _is_missing(error, package):
            raise
        program = package.replace("_", "-")
        what = error.name or "a package that it lacks"
        sys.stderr.write(
            f"{program}: the command needs {what}, which is not installed in the environment "
            f"of {sys.executable}. Run: pip install '{program}[serving]'\n"
        )
        sys.exit(MISSING)


def _is_missing(error: ImportError, package: str) -> bool:
    """Whether an error is a package that is not installed, and no mistake in our own modules."""
    top = (error.name or "").partition(".")[0]
    return top != package and sys.modules.get(top) is None
