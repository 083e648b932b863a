"""Fit the plant's coefficients again from ../shared/data: ``python -m tools.calibration``.

Prints coefficients and residuals; ``--write`` puts them into the hardware profiles. A fit whose
coefficients another one needs comes after it. What the published figure leaves open is fitted by
``tools.calibration.published``, which takes much longer.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tools.calibration import attention, collectives, elementwise, gemm, lengths, power, variants
from tools.calibration.data import DATA
from tools.calibration.profile_file import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.calibration.fitted import Fitted

FITS: tuple[Callable[[], list[Fitted]], ...] = (
    gemm.fit,
    attention.fit,
    elementwise.fit,
    collectives.fit,
)

DERIVED = {
    "a100-sxm4-80gb": ("a100-sxm4-40gb", "a100-pcie-40gb"),
    "h100-sxm": ("h200-sxm",),
}
"""Boards that take over what was measured on another board with the same chip."""


def main() -> int:
    """Run all fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="update the hardware profiles")
    write_profiles = parser.parse_args().write
    if not DATA.is_dir():
        print(f"{DATA} is absent: nothing to fit to. Put the measurements beside the project.")
        return 0
    for fit in FITS:
        for fitted in fit():
            values = ", ".join(f"{name} = {value:.4g}" for name, value in fitted.values.items())
            print(f"{fitted.hardware} [{fitted.section}]\n  {values}\n  {fitted.residual}")
            if write_profiles:
                write(fitted, DERIVED.get(fitted.hardware, ()))
    power.fit_all(write=write_profiles)
    if write_profiles:
        variants.write_all()
        lengths.main(DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
