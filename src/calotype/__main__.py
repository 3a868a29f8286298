"""`python -m calotype`: the command line, for launchers that want a module."""

from calotype.cli.main import main

main()
