"""Put measured times of clock changes into a hardware profile; the rest stays as it is written."""

from __future__ import annotations

import math
import re
import statistics
from typing import TYPE_CHECKING

from voltana.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECTION = re.compile(
    r"^\[clocks\]\n.*?(?=^\[(?!clocks\.|\[clocks\.)|\Z)", re.MULTILINE | re.DOTALL
)


def with_measured_clocks(
    profile: str,
    *,
    table_mhz: Sequence[float],
    pairs: Sequence[tuple[float, float, float, float]],
    source: str,
) -> str:
    """The text of a profile with its ``[clocks]`` table replaced by measurements.

    Args:
        profile: TOML text of a hardware profile.
        table_mhz: Supported clocks, evenly spaced, ascending.
        pairs: From MHz, to MHz, duration of the call in s, settling time in s (nan if unknown).
        source: What was measured, for the provenance.

    Returns:
        TOML text.

    Raises:
        ProfileError: If the text has no ``[clocks]`` table or nothing settled.
    """
    settled = [pair for pair in pairs if not math.isnan(pair[3])]
    if not settled:
        raise ProfileError(
            "no change of clock settled while it was watched. Keep the GPU busy during the "
            "measurement: an idle one does not show its clock."
        )
    if not _SECTION.search(profile):
        raise ProfileError("the profile has no [clocks] table. Start from one that ships.")
    call_s = statistics.median(pair[2] for pair in pairs)
    settle_s = statistics.median(pair[3] for pair in settled)
    longest_s = max(pair[3] for pair in settled)
    lines = [
        "[clocks]",
        f"min_mhz = {table_mhz[0]:g}",
        f"max_mhz = {table_mhz[-1]:g}",
        f"step_mhz = {table_mhz[1] - table_mhz[0] if len(table_mhz) > 1 else 1:g}",
        f"call_s = {call_s:.3g}",
        f"settle_s = {settle_s:.3g}",
        "",
        "[clocks.provenance]",
        f'source = "{source}"',
        f'residual = "settling at most {1e3 * longest_s:.3g} ms over {len(settled)} pairs of '
        'levels, see clocks.pairs"',
        f'valid = "{table_mhz[0]:g}-{table_mhz[-1]:g} MHz on this machine and driver"',
    ]
    for low, high, call, settle in settled:
        lines += [
            "",
            "[[clocks.pairs]]",
            f"from_mhz = {low:g}",
            f"to_mhz = {high:g}",
            f"call_s = {call:.3g}",
            f"settle_s = {settle:.3g}",
        ]
    return _SECTION.sub(lambda _: "\n".join(lines) + "\n\n", profile, count=1)
