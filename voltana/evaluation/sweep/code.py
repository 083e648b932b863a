"""Which code figures come from: runs of different code are not mixed in one sweep."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import voltana

_SAYS_NOTHING = ("cli", "serving", "testing", "actuators", "analysis", "evaluation")
"""Parts that no simulated figure comes from, but for `_EVALUATION`."""

_EVALUATION = ("best_fixed.py", "compare.py", "metrics.py", "pair_race.py", "pair_search.py",
               "scenario.py", "time_series.py")  # fmt: skip


@functools.cache
def code_digest() -> str:
    """Digest of the modules and profiles that simulated figures follow from."""
    home = Path(voltana.__file__).parent
    files = [
        path
        for path in home.rglob("*")
        if path.suffix in {".py", ".toml", ".json", ".csv"}
        and path.relative_to(home).parts[0] not in _SAYS_NOTHING
    ]
    files += [home / "evaluation" / name for name in _EVALUATION]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
