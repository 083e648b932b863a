"""`voltana policies`: the policies that `voltana simulate` knows by name."""

import typer


def policies() -> None:
    """List the policies with one line each.

    Any of them goes behind 'voltana simulate --policy'; so does MODULE:FACTORY of your own.
    """
    from voltana.policies.named import POLICIES

    width = max(len(name) for name in POLICIES)
    for name, policy in POLICIES.items():
        typer.echo(f"{name:<{width}}  {policy.summary}")
