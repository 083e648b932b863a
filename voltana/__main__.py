"""`python -m voltana` is the `voltana` command."""

from voltana.cli.entry import main

main()
