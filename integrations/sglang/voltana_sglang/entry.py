"""Where ``voltana-sglang`` begins: its commands need the extra, which an engine does without."""

from __future__ import annotations

import sys

EXTRA = "pip install 'voltana-sglang[serving]'"
MISSING = 2


def main() -> None:
    """Run the command line, or name what it lacks in one line."""
    try:
        from voltana_sglang.cli import main as run  # noqa: PLC0415  (see above)

        run()
    except ImportError as error:
        if not is_missing(error):
            raise
        what = error.name or "a package that it lacks"
        sys.stderr.write(
            f"voltana-sglang: the command needs {what}, which is not installed in the environment "
            f"of {sys.executable}. Run: {EXTRA}\n"
        )
        sys.exit(MISSING)


def is_missing(error: ImportError) -> bool:
    """Whether an error is a package that is not installed, and no mistake in our own modules."""
    top = (error.name or "").partition(".")[0]
    return top != "voltana_sglang" and sys.modules.get(top) is None
