"""The command line: the only room that knows a terminal, one file per command."""

from celo2.cli.main import main

__all__ = ["main"]
