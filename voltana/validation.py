"""The base of every file and request body that a user writes, and the words for its errors.

It lies in `voltana_actuatord.validation`, where the daemon can import it without this library.
"""

from voltana_actuatord.validation import (
    Count,
    NotNegative,
    Port,
    Positive,
    Share,
    StrictTable,
    WholeNotNegative,
    explain,
)

__all__ = [
    "Count",
    "NotNegative",
    "Port",
    "Positive",
    "Share",
    "StrictTable",
    "WholeNotNegative",
    "explain",
]
