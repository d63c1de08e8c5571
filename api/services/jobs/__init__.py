"""The life of jobs: plan, hold, start, stop, explain."""
