"""Bundles: received, trained, and what came of them."""
