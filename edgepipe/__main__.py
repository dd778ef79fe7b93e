"""`python -m edgepipe` is the command line."""

from edgepipe.cli import main

main()
