"""The command line: parses, calls, prints; nothing else."""

from schedverify.cli.app import main

__all__ = ["main"]
