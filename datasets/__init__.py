"""Data sets on disk: one reader per format, checks of what users send, and the one indexed form that networks read."""
