"""Jobs that run a command of the user's own: projects, code, secrets, logins of command lines."""
