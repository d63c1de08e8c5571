"""The MLflow tracking server of a yard: MLflow's own FastAPI app and UI in one process.

`mlflow server` starts 16 processes with 2.5 GiB for the same app.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import uvicorn

from .environment import LOOPBACK, mlflow_environment

#: Seconds that open requests get to end on SIGTERM.
SHUTDOWN_S = 3

#: Runs get artifact addresses that go through the server, so clients need no key of the store.
PROXIED_ARTIFACTS = "mlflow-artifacts:/"

#: Connections that its 40 threads may open beyond the pool of 5. Some requests need two at once: with MLflow's own
#: limit of 15 in all, 48 jobs that start together wait for each other for 30 seconds, and then are refused.
CONNECTIONS = 80


def main(host: str, port: int, backend_store_uri: str, artifacts_destination: str) -> None:
    """Serve until SIGTERM or SIGINT.

    `artifacts_destination` is a folder or any URL that MLflow has a store for, `s3://bucket/prefix` say.
    """
    os.environ |= mlflow_environment(port, host=host)
    # Its own address is for the clients; the server itself must not talk to itself over HTTP.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW", str(CONNECTIONS))
    if "://" not in artifacts_destination:
        folder = Path(artifacts_destination).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        artifacts_destination = folder.as_uri()

    # Late: MLflow's server reads the environment while it is imported.
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = backend_store_uri
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = PROXIED_ARTIFACTS
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts_destination

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "starlette.middleware.wsgi is deprecated")
        from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(backend_store_uri, backend_store_uri, PROXIED_ARTIFACTS)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--backend-store-uri", required=True)
    parser.add_argument("--artifacts-destination", required=True)
    main(**vars(parser.parse_args()))
