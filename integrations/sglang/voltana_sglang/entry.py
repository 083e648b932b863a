"""Where ``voltana-sglang`` begins."""

from voltana_ring.entry import start


def main() -> None:
    """Run the command line, or name what it lacks in one line."""
    start("voltana_sglang")
