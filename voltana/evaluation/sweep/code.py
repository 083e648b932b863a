"""Which code figures come from: runs of different code are not mixed in one sweep."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import voltana

_SAYS_NOTHING = ("cli", "serving", "testing", "actuators", "analysis", "evaluation")
"""Parts that no simulated figure comes from, but for `_EVALUATION`."""

_EVALUATION = ("best_fixed.py", "bound/*.py", "budget_file.py", "budget_floor.py", "budget_kept.py",
               "compare.py", "metrics.py", "pair_race.py", "pair_search.py", "reasons.py",
               "reproduce/routed.py", "scenario.py", "time_series.py")  # fmt: skip


_HOME = Path(voltana.__file__).parent


@functools.cache
def code_digest() -> str:
    """Digest of the modules and profiles that simulated figures follow from."""
    digest = hashlib.sha256()
    for path in sorted(figure_files()):
        digest.update(path.relative_to(_HOME).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def figure_files() -> set[Path]:
    """The modules and profiles that simulated figures follow from."""
    files = {
        path
        for path in _HOME.rglob("*")
        if path.suffix in {".py", ".toml", ".json", ".csv"}
        and path.relative_to(_HOME).parts[0] not in _SAYS_NOTHING
    }
    for pattern in _EVALUATION:
        files |= set((_HOME / "evaluation").glob(pattern))
    return files
