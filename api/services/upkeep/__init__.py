"""Deleting, and freeing what nobody needs any more."""
