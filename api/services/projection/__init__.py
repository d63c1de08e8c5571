"""The catalog's picture of what Prefect and the storage say."""
