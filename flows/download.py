"""The tar of a job, built once when the job ends, so that downloads can be resumed byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
from pathlib import Path

from prefect.logging import get_run_logger

from ..blocks import layout
from ..blocks.storage import is_internal
from ..tasks.context import JobContext


def build_download(job: JobContext) -> None:
    """Pack the folder and the log of a job; the stats beside the tar hold its size and SHA-256."""
    storage, target = job.storage, layout.download(job.org, job.job_id)
    with tempfile.TemporaryDirectory(prefix="trainyard-tar-") as scratch:
        folder = storage.local_copy(job.path, Path(scratch))
        packed = Path(scratch) / "download.tar.gz"
        # Level 1: weights hardly shrink, and the job waits for this.
        with gzip.open(packed, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            for file in sorted(p for p in folder.rglob("*") if p.is_file() and not is_internal(p.name)):
                tar.add(file, f"{job.job_id}/{file.relative_to(folder).as_posix()}", recursive=False)
        with packed.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = packed.stat().st_size
        storage.upload_file(packed, target)
    storage.write_json(layout.download_stats(job.org, job.job_id), {"file_size": size, "sha256_digest": digest})
    get_run_logger().info("Download of %d bytes built.", size)
