"""The command line: one module for each group of commands."""

from safelight.cli.app import main

__all__ = ["main"]
