"""What an agent has learned, kept over its restarts.

EcoPred is kept as a profile that people can read; what a guarantee has found is kept by
`voltana.serving.agent.guarantee`. A user's own predictor is kept if it has
``to_dict()`` and ``restore(values)``; others begin anew. Files are replaced in one step, so that a
crash leaves the old one.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from voltana.errors import ProfileError
from voltana.ports import Restorable
from voltana.predictors.conformal import Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.tables import holds_tables, load_tables
from voltana.users_file import load_json, read_text

if TYPE_CHECKING:
    from voltana.predictors.profile import Stack

_log = structlog.get_logger("voltana.serving.persistence")


def state_path(folder: Path, loop: str) -> Path:
    """File of what one loop learned."""
    return folder / f"{loop}.predictor.json"


def save_predictor(predictor: Any, path: Path, stack: Stack) -> bool:
    """Save a predictor; whether there was anything that can be saved.

    Raises:
        OSError: If the file cannot be written.
    """
    values = _values(_learner(predictor), stack)
    return values is not None and _replace(path, values)


def _learner(predictor: Any) -> Any:
    """What learns latencies, without the guarantee around it: `Guarantee` keeps that."""
    return predictor.predictor if isinstance(predictor, Conformal) else predictor


def _replace(path: Path, values: Any) -> bool:
    text = json.dumps(values, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True


def restore_predictor(own: Any, saved: Path, profile: Path | None, stack: Stack) -> Any:
    """The predictor to begin with.

    Args:
        own: A user's predictor; None for EcoPred.
        saved: What an earlier agent saved; a damaged file is reported and left aside.
        profile: A file that the configuration names: a profile, for EcoPred, or profiled tables,
            which stand above what was saved, for they learn nothing.
        stack: What is running; a profile of another stack is taken as a prior.

    Returns:
        `own`, restored where it can be; tables; an EcoPred that knows what was saved; or None,
        where nothing is known.

    Raises:
        ProfileError: If the profile of the configuration cannot be read, or holds the tables of
            another stack.
    """
    if own is not None:
        restore_own(own, saved)
        return own
    if profile is not None and holds_tables(profile):
        return load_tables(profile, stack)
    if saved.exists() and not _is_another_kind(saved):
        try:
            return _from_profile(saved, stack)
        except ProfileError as error:
            _log.warning("what was learned cannot be read; beginning anew", error=str(error))
    return None if profile is None else _from_profile(profile, stack)


def _from_profile(path: Path, stack: Stack) -> EcoPred:
    predictor = EcoPred.from_profile(path, expect=stack, mismatch="prior")
    _log.info("predictor restored", path=str(path), predictor=repr(predictor))
    return predictor


def _is_another_kind(path: Path) -> bool:
    """Whether a file holds what a predictor other than EcoPred saved."""
    try:
        values = load_json(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "format" not in values


def _values(predictor: Any, stack: Stack) -> Any:
    if isinstance(predictor, EcoPred):
        profile = predictor.to_profile(stack)
        learned = profile.prefill is not None or profile.decode is not None
        return profile.model_dump() if learned else None
    if isinstance(predictor, Restorable):
        try:
            return dict(json.loads(json.dumps(predictor.to_dict())))
        except Exception as error:  # noqa: BLE001  (a user's own code)
            _log.warning("what was learned is no JSON and cannot be saved", error=repr(error))
    return None


def restore_own(own: Any, saved: Path) -> None:
    """Restore a predictor that is no EcoPred, if it can be and there is something saved.

    Args:
        own: The predictor; mutated.
        saved: What an earlier agent saved; a damaged file is reported and left aside.
    """
    learner = _learner(own)
    if isinstance(learner, EcoPred) or not isinstance(learner, Restorable) or not saved.exists():
        return
    try:
        learner.restore(load_json(read_text(saved)))
    except Exception as error:  # noqa: BLE001  (a user's code, on a file of an earlier version)
        _log.warning("what was learned cannot be read; beginning anew", error=repr(error))
