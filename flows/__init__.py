"""The flow of one job per action, and pipelines of jobs."""
