"""Sweeps: the space that is searched, who proposes its points, and who trains next."""
