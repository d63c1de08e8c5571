"""Experiments and the specs of their jobs."""
