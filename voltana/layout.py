"""Which instances make a cluster: pairs, colocated instances, or both."""

from __future__ import annotations

from voltana.errors import invalid


def check_layout(*, prefill: int, decode: int, colocated: int, table: str = "") -> None:
    """Refuse a cluster that cannot serve.

    Args:
        prefill: Prefill instances.
        decode: Decode instances.
        colocated: Instances for both phases.
        table: Of a file, with a dot; what an error names the field by.

    Raises:
        ConfigError: If there is no instance of a kind that is needed, or a number is below 0.
    """
    if colocated < 0:
        raise invalid(f"{table}colocated", colocated, "0 or more", "Give --colocated 1 or more.")
    if colocated > 0 and prefill == decode == 0:  # they serve alone
        return
    for name, count in (("prefill", prefill), ("decode", decode)):
        if count < 1:
            raise invalid(
                f"{table}{name}",
                count,
                "at least 1",
                f"Give --{name} 1 or more, or only --colocated.",
            )
