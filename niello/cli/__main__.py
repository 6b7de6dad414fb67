"""`python -m niello.cli` is the `niello` command."""

from niello.cli import main

main()
