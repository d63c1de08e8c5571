"""The environment variables that tie Prefect and MLflow processes to one yard."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

LOOPBACK = "127.0.0.1"


def prefect_environment(
    home: Path, port: int, *, host: str = LOOPBACK, database_url: str | None = None
) -> dict[str, str]:
    """Return what the Prefect server of a yard and all its clients need to see.

    `home` holds the server's state. The profile of the user's own Prefect is left out on purpose:
    a yard must not follow settings that belong to another server.
    """
    database = URL.create("sqlite+aiosqlite", database=str(home / "prefect.db"))
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": f"http://{host}:{port}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": database_url or database.render_as_string(hide_password=False),
        # Without it a process that misses the API URL silently starts a server of its own.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # A training job that waits for a slot is not late, and a second state for each is a second write.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "3600",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
    }


def mlflow_environment(port: int, *, host: str = LOOPBACK) -> dict[str, str]:
    """Return what the MLflow server of a yard and all its clients need to see."""
    return {
        "MLFLOW_TRACKING_URI": f"http://{host}:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its bars and links are noise in the log of a job, which has a link of its own.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "DO_NOT_TRACK": "1",
        # MLflow imports GitPython, which complains on every import where there is no git.
        "GIT_PYTHON_REFRESH": "quiet",
    }
