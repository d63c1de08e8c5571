"""Starts one warm worker: `python -m prefect_trainyard.deployments.worker --pool trainyard`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from .warm_worker import TrainyardWorker
from .worker_settings import WorkerSettings


async def _serve(worker: TrainyardWorker) -> None:
    with contextlib.suppress(asyncio.CancelledError):  # by a signal
        await worker.start(printer=lambda _: None)


def main() -> None:
    """Work until SIGTERM or SIGINT; runs that are under way are given back to be scheduled again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--pool", default="trainyard")
    parser.add_argument("--name")
    parser.add_argument("--cpus", type=int)
    parser.add_argument("--gpus")
    options = vars(parser.parse_args())
    pool, name = options.pop("pool"), options.pop("name")
    settings = WorkerSettings(**{key: value for key, value in options.items() if value is not None})
    asyncio.run(_serve(TrainyardWorker(work_pool_name=pool, name=name, settings=settings)))


if __name__ == "__main__":
    main()
