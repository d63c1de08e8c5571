"""The command line, `trainyard`."""

from .app import app, main

__all__ = ["app", "main"]
