"""`python -m bbqrec` is the `bbqrec` command."""

from bbqrec.cli import main

main()
