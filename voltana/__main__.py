"""`python -m voltana` is the `voltana` command."""

from voltana.cli.main import main

main()
