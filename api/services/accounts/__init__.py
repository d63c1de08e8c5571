"""Who may do what, and what it costs: orgs, keys, idempotency, usage."""
