"""`voltana policies`: the policies that `voltana simulate` knows by name."""

import typer


def policies() -> None:
    """List the policies with one line each.

    Any of them goes behind 'voltana simulate --policy'; so does MODULE:FACTORY of your own.
    """
    from voltana.policies.named import IN_HINDSIGHT, POLICIES
    from voltana.policy import FIXED_PREFIX

    lines = {name: policy.summary for name, policy in POLICIES.items()}
    lines[f"{FIXED_PREFIX}MHZ[/MHZ]"] = (
        "fixed prefill and decode clocks, with the routers of voltana"
    )
    lines |= IN_HINDSIGHT
    width = max(map(len, lines))
    for name, summary in lines.items():
        typer.echo(f"{name:<{width}}  {summary}")
