"""Predictor profiles: what was learned or fitted, in a file that people can read.

A profile is JSON with a version, the stack that it was measured on, the coefficients by name, how
far they may be off, and how well they fit. A profile of another stack is refused, unless it is
asked for as a mere prior.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voltana.errors import ProfileError
from voltana.predictors.ecopred.features import BASIS_NAMES, EXPERTS, FEATURES
from voltana.predictors.ecopred.prior import Prior
from voltana.users_file import load_json, read_text
from voltana.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray

Table = dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]]

PRIOR_DOUBT = 0.5
"""How far a coefficient of another stack may be off, as a share of itself."""

PRIOR_RELATIVE_ERROR = 0.3
"""Residuals to expect while a profile of another stack is only a prior."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stack(_Section):
    """What a profile was measured on; all of it changes latency.

    Attributes:
        hardware: Device, such as ``a100-sxm4-80gb``.
        model: Model that was served.
        tensor_parallel: Devices of the instance.
        engine: Engine, such as ``sglang``.
        engine_version: Its version.
    """

    hardware: str
    model: str
    tensor_parallel: int = Field(default=1, ge=1)
    engine: str
    engine_version: str


class FitErrors(_Section):
    """How well the coefficients fit.

    Attributes:
        samples: Iterations that they were fitted to.
        mean_relative_error: Of the latency, as a fraction.
        mean_absolute_error_ms: Of the latency; None where only the relative one was tracked.
    """

    samples: int = Field(ge=0)
    mean_relative_error: float = Field(ge=0)
    mean_absolute_error_ms: float | None = Field(default=None, ge=0)


class PhaseProfile(_Section):
    """Coefficients of one phase.

    Attributes:
        coefficients_s: Seconds per unit of each load feature, by clock basis and feature.
        deviations_s: Their standard deviations, likewise.
        slowest_mhz: Slowest clock that was measured.
        fastest_mhz: Fastest clock that was measured.
        expert_share: Share of the experts that a token uses; 0 of a dense model.
        errors: How well they fit.
    """

    coefficients_s: Table
    deviations_s: Table
    slowest_mhz: float = Field(gt=0)
    fastest_mhz: float = Field(gt=0)
    expert_share: float = Field(default=0.0, ge=0, le=1)
    errors: FitErrors


class PredictorProfile(_Section):
    """A latency model and where it comes from.

    Attributes:
        format: Tells the file from others.
        version: Of the format.
        stack: What it was measured on.
        max_clock_mhz: Clock at which f_max / f is 1.
        prefill: Model of prefill; None if it was not measured.
        decode: Model of decode; None likewise.
    """

    format: Literal["voltana-predictor-profile"] = "voltana-predictor-profile"
    version: Literal[1] = 1
    stack: Stack
    max_clock_mhz: float = Field(gt=0)
    prefill: PhaseProfile | None = None
    decode: PhaseProfile | None = None


def save_profile(profile: PredictorProfile, path: str | Path) -> None:
    """Write a profile as JSON."""
    text = json.dumps(profile.model_dump(), indent=2, allow_nan=False) + "\n"
    write_whole(Path(path), text.encode())


def load_profile(path: str | Path) -> PredictorProfile:
    """Read a profile.

    Raises:
        ProfileError: If there is no such file, or if it is no profile of this version; the text
            names the field.
    """
    try:
        values = load_json(read_text(Path(path)))
        return PredictorProfile.model_validate(values)
    except OSError as error:
        raise ProfileError(
            f"profile {path} cannot be read: {error.strerror}. Check the path."
        ) from None
    except ValidationError as error:
        raise _refused(path, first_complaint(error)) from None
    except ValueError as error:
        raise _refused(path, f"not JSON ({error})") from None


def check_stack(profile: PredictorProfile, expect: Stack, path: str | Path) -> None:
    """Refuse a profile of another stack.

    Raises:
        ProfileError: Naming the first field that differs and the remedy.
    """
    for field in Stack.model_fields:
        found, wanted = getattr(profile.stack, field), getattr(expect, field)
        if found != wanted:
            raise ProfileError(
                f"profile {path}: stack.{field} = {found!r} is not allowed: must be {wanted!r}, "
                "which is running. Profile this stack, or pass mismatch='prior' to start from it "
                "with doubt."
            )


def phase_prior(profile: PhaseProfile, names: tuple[str, ...], *, doubted: bool) -> Prior:
    """A profile's phase as a prior.

    Args:
        profile: The phase.
        names: `PREFILL_NAMES` or `DECODE_NAMES` of `voltana.predictors.ecopred.features`.
        doubted: Whether it is of another stack, so that its coefficients may be far off.

    Raises:
        ProfileError: If a coefficient is missing or unknown.
    """
    mean = _from_table(profile.coefficients_s, names, "coefficients_s")
    deviation = _from_table(profile.deviations_s, names, "deviations_s")
    error = profile.errors.mean_relative_error
    if doubted:
        # Where the profile is sure of a zero, another stack may still differ by what the feature
        # could explain at the most.
        largest = mean.reshape(len(BASIS_NAMES), -1).max(axis=0)
        doubt = PRIOR_DOUBT * np.tile(largest, len(BASIS_NAMES))
        deviation = np.maximum(deviation, doubt)
        error = max(error, PRIOR_RELATIVE_ERROR)
    tried_mhz = None if doubted else (profile.slowest_mhz, profile.fastest_mhz)
    return Prior(
        mean=mean,
        deviation=deviation,
        relative_error=error,
        tried_mhz=tried_mhz,
        expert_share=profile.expert_share,
    )


def to_table(values: FloatArray, names: tuple[str, ...]) -> Table:
    """Coefficients (shape (FEATURES,)) by the names of clock basis and load feature."""
    rows = values.reshape(len(BASIS_NAMES), len(names))
    return {
        basis: {name: float(value) for name, value in zip(names, row, strict=True)}
        for basis, row in zip(BASIS_NAMES, rows, strict=True)
    }


def _from_table(
    table: Mapping[str, Mapping[str, float]], names: tuple[str, ...], field: str
) -> FloatArray:
    # Files from before experts were told apart have no coefficient of theirs: it is 0.
    wanted = set(names) - {EXPERTS}
    if set(table) != set(BASIS_NAMES) or any(
        set(row) - {EXPERTS} != wanted for row in table.values()
    ):
        raise ProfileError(
            f"{field} = {sorted(table)} x {sorted(set().union(*table.values()))} is not allowed: "
            f"must be {', '.join(BASIS_NAMES)} with {', '.join(names)} each. "
            "Profile the stack again."
        )
    flat = np.array([[table[basis].get(name, 0.0) for name in names] for basis in BASIS_NAMES])
    values: FloatArray = flat.reshape(FEATURES)
    return values


def _refused(path: str | Path, what: str) -> ProfileError:
    return ProfileError(
        f"profile {path} is not allowed: {what}. Profile the stack again, or correct the field."
    )


def first_complaint(error: ValidationError) -> str:
    """The field that a file is refused for, what it holds, and why."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"{where} = {str(first['input'])[:60]!r}: {first['msg']}"
