"""Artifact storage: one place for files, a local folder or an S3 bucket, reached through fsspec."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from prefect.blocks.core import Block
from pydantic import Field, PrivateAttr, SecretStr, field_validator

from ..schemas.errors import InvalidInput, NotFound, StorageFull, Unavailable
from .layout import SECRETS
from .patience import patiently

T = TypeVar("T")

#: Environment variable with the address of the yard's storage; it wins over a saved block.
URL_VARIABLE = "TRAINYARD_STORAGE_URL"
BLOCK_NAME = "trainyard"

#: A remote storage gets so long to answer before an operation fails; see `ArtifactStorage.patient`.
PATIENCE_S = 2.0

#: Who works on a job locks this file in its folder. It is nobody's artifact.
LOCK_FILE = ".lock"

#: How the names of files begin that are being written.
INCOMING = ".incoming-"

#: What a file system answers about the path or the caller. Every other error of a remote one may pass.
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below a folder of the storage; `path` is relative to that folder."""

    path: str
    size_bytes: int
    modified_at: float
    """Seconds since 1970, by the clock of the storage."""


class ArtifactStorage(Block):
    """Where data sets, checkpoints, models and logs lie.

    Example:
        ```python
        from prefect_trainyard.blocks import ArtifactStorage

        storage = ArtifactStorage.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Trainyard Artifact Storage"
    _block_type_slug = "trainyard-artifact-storage"
    _description = "A local folder or an S3 bucket that holds the files of training jobs."

    url: str = Field(
        description="Folder of the storage: an absolute path, file:///folder or s3://bucket/prefix.",
        examples=["file:///srv/trainyard/storage", "s3://models/trainyard"],
    )
    endpoint_url: str | None = Field(default=None, description="Address of an S3 server other than Amazon's.")
    access_key: str | None = Field(default=None, description="S3 access key; the default is the AWS credential chain.")
    secret_key: SecretStr | None = Field(default=None, description="S3 secret key that goes with the access key.")

    _fs: fsspec.AbstractFileSystem | None = PrivateAttr(default=None)
    _patience_s: float = PrivateAttr(default=PATIENCE_S)

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme in ("", "file") and parts.path.startswith("/"):
            return f"file://{parts.path.rstrip('/')}"
        if parts.scheme == "s3" and parts.netloc:
            return url.rstrip("/")
        raise ValueError("a storage URL is an absolute path, file:///folder or s3://bucket/prefix")

    @property
    def root(self) -> Path | None:
        """Folder of a local storage, None for a remote one."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system; made when it is first needed."""
        if self._fs is None:
            if self.root is not None:
                self._fs = fsspec.filesystem("file", auto_mkdir=True)
            else:
                secret = self.secret_key.get_secret_value() if self.secret_key else None
                self._fs = fsspec.filesystem(
                    "s3",
                    endpoint_url=self.endpoint_url,
                    key=self.access_key,
                    secret=secret,
                    use_listings_cache=False,
                    # why: they wait out a hiccup; how long an outage is waited out is the caller's choice.
                    config_kwargs={"retries": {"mode": "standard", "total_max_attempts": 2}},
                )
                self._fs.retries = 2
        return self._fs

    def patient(self, seconds: float) -> ArtifactStorage:
        """Return this storage as seen by somebody who waits so long for it when it is away."""
        patient = self.model_copy()
        patient._patience_s = seconds
        return patient

    def _do(self, path: str, call: Callable[[], T]) -> T:
        """Return what `call` returns; errors say what to do, and a remote storage that is away gets some time."""
        if self.root is not None:
            with _translated(path):
                return call()

        def once() -> T:
            with _translated(path), _remote(path):
                return call()

        return patiently(once, self._patience_s)

    def address(self, path: str) -> str:
        """Return the full URL of `path`."""
        return f"{self.url}/{_checked(path)}" if path else self.url

    def relative(self, url: str) -> str:
        """Return the path below this storage of a full URL.

        Raises:
            InvalidInput: the URL is not of this storage.
        """
        if not url.startswith(self.url + "/"):
            raise InvalidInput(
                f"{url} is not in the storage {self.url}.", hint="Use the storage that the job wrote to."
            )
        return _checked(url[len(self.url) + 1 :])

    def _full(self, path: str) -> str:
        address = self.address(path)
        return address.removeprefix("file://")

    def exists(self, path: str) -> bool:
        full = self._full(path)
        return self._do(path, lambda: bool(self.fs.exists(full)))

    def size(self, path: str) -> int:
        full = self._full(path)
        return self._do(path, lambda: int(self.fs.size(full)))

    def open(self, path: str, mode: str = "rb") -> IO[bytes]:
        """Open a file for reading (`rb`) or writing (`wb`); close it yourself."""
        full = self._full(path)
        return self._do(path, lambda: self.fs.open(full, mode))

    def read_bytes(self, path: str) -> bytes:
        full = self._full(path)

        def read() -> bytes:
            if self.root is not None:
                return Path(full).read_bytes()
            size = int(self.fs.size(full))
            content = bytes(self.fs.cat_file(full))
            _check_length(path, len(content), size)
            return content

        return self._do(path, read)

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a whole file; readers see the old one or the new one, never a part."""
        full = self._full(path)

        def write() -> None:
            if self.root is None:
                self.fs.pipe_file(full, content)
                self._check_stored(path, len(content))
                return
            target = Path(full)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(target) as temporary:
                temporary.write_bytes(content)

        self._do(path, write)

    def read_json(self, path: str) -> Any:
        return json.loads(self.read_bytes(path))

    def write_json(self, path: str, content: object) -> None:
        self.write_bytes(path, json.dumps(content, indent=1).encode())

    def append_text(self, path: str, text: str) -> None:
        """Append to a text file. One atomic write on a local disk; S3 rewrites the object."""
        if self.root is None:
            before = self.read_bytes(path) if self.exists(path) else b""
            self.write_bytes(path, before + text.encode())
            return
        target = Path(self._full(path))
        with _translated(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)

    def list_files(self, path: str, *, internal: bool = False) -> list[StoredFile]:
        """Return all files below a folder, sorted by path; an absent folder is empty.

        With `internal` also traces of the writing of files, which are no content.
        """
        top = self._full(path)
        try:
            found = self._do(path, lambda: self.fs.find(top, detail=True))
        except NotFound:
            return []
        prefix = str(self.fs._strip_protocol(top)).rstrip("/") + "/"
        return sorted(
            (
                StoredFile(name.removeprefix(prefix), int(info["size"]), _modified_at(info))
                for name, info in found.items()
                if internal or not is_internal(name)
            ),
            key=lambda file: file.path,
        )

    def list_names(self, path: str) -> list[str]:
        """Return the names of what lies directly in a folder; an absent folder is empty."""
        try:
            found = self._do(path, lambda: self.fs.ls(self._full(path), detail=False))
        except NotFound:
            return []
        return sorted(PurePosixPath(name).name for name in found)

    def upload_file(self, local: Path, path: str) -> None:
        full = self._full(path)

        def upload() -> None:
            if self.root is None:
                size = local.stat().st_size
                self.fs.put_file(str(local), full)
                self._check_stored(path, size)
                return
            target = Path(full)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(target) as temporary:
                shutil.copyfile(local, temporary)

        self._do(path, upload)

    def _check_stored(self, path: str, size_bytes: int) -> None:
        try:
            stored = int(self.fs.size(self._full(path)))
        except FileNotFoundError:
            stored = 0
        _check_length(path, stored, size_bytes)

    def upload_folder(self, local: Path, path: str) -> None:
        """Copy every file below a local folder; files that are already there are replaced."""
        for file in sorted(p for p in local.rglob("*") if p.is_file() and not is_internal(p.name)):
            self.upload_file(file, f"{path}/{file.relative_to(local).as_posix()}")

    def download_folder(self, path: str, destination: Path) -> None:
        """Copy every file below a folder of the storage into a local folder."""
        waiting = self.list_files(path)
        for file in waiting:
            (destination / _checked(file.path)).parent.mkdir(parents=True, exist_ok=True)

        def download() -> None:
            sources = [self._full(f"{path}/{file.path}") for file in waiting]
            targets = [destination / file.path for file in waiting]
            if self.root is not None:
                for source, target in zip(sources, targets, strict=True):
                    shutil.copyfile(source, target)
            elif waiting:
                self.fs.get(sources, [str(target) for target in targets])
                came = dict(zip(waiting, targets, strict=True))
                # why: only what came short is fetched again.
                waiting[:] = [file for file, target in came.items() if target.stat().st_size < file.size_bytes]
                for file in waiting[:1]:
                    _check_length(f"{path}/{file.path}", came[file].stat().st_size, file.size_bytes)

        self._do(path, download)

    def local_path(self, path: str) -> Path | None:
        """Return where `path` lies on this disk, None when the storage is remote."""
        return Path(self._full(path)) if self.root is not None else None

    def local_copy(self, path: str, into: Path) -> Path:
        """Return a local file or folder with the content of `path`.

        A local storage gives the thing itself: do not write to it. From a remote one it is
        downloaded below `into`.

        Raises:
            NotFound: there is nothing at `path`.
        """
        direct = self.local_path(path)
        if direct is not None:
            if not direct.exists():
                raise NotFound(f"{path} is not in the storage {self.url}.")
            return direct
        target, full = into / PurePosixPath(path).name, self._full(path)

        def download() -> bool:
            try:
                # why: asked by `isfile`, an S3 server that is away has no such file.
                found = self.fs.info(full)
            except FileNotFoundError:
                return False
            if found["type"] != "file":
                return False
            into.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(full, str(target))
            _check_length(path, target.stat().st_size, int(found["size"]))
            return True

        if self._do(path, download):
            return target
        if not self.list_files(path):
            raise NotFound(f"{path} is not in the storage {self.url}.")
        self.download_folder(path, target)
        return target

    def remove(self, path: str) -> int:
        """Delete a file or folder and return the bytes that were freed; absent is fine."""
        full = self._full(path)
        if self.root is not None:
            target = Path(full)
            if target.is_dir():
                freed = sum(f.size_bytes for f in self.list_files(path, internal=True))
                shutil.rmtree(target)
                return freed
            freed = target.stat().st_size if target.exists() else 0
            target.unlink(missing_ok=True)
            return freed
        freed = sum(f.size_bytes for f in self.list_files(path, internal=True))
        if self.exists(path):
            self._do(path, lambda: self.fs.rm(full, recursive=True))
        return freed

    def free_bytes(self) -> int | None:
        """Return the room that is left on a local disk, None where nobody can tell."""
        if self.root is None:
            return None
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free


def load_storage() -> ArtifactStorage:
    """Return the storage of this yard.

    The address is looked up in `TRAINYARD_STORAGE_URL`, then in a saved block named `trainyard`;
    without either it is `~/.trainyard/storage`.
    """
    if url := os.environ.get(URL_VARIABLE):
        return ArtifactStorage(url=url, endpoint_url=os.environ.get("TRAINYARD_STORAGE_ENDPOINT_URL"))
    try:
        block = ArtifactStorage.load(BLOCK_NAME, _sync=True)  # type: ignore[call-arg]
    except ValueError:  # what Prefect raises for a block that was never saved
        return ArtifactStorage(url=str(Path.home() / ".trainyard" / "storage"))
    assert isinstance(block, ArtifactStorage)
    return block


def _modified_at(info: dict[str, Any]) -> float:
    """Return when a file was written, of what fsspec knows of it: local files and S3 objects say it differently."""
    return float(info["mtime"]) if "mtime" in info else float(info["LastModified"].timestamp())


def is_internal(name: str) -> bool:
    """Tell whether a file is nobody's content: a trace of the writing of content, or secrets."""
    base = name.rpartition("/")[2]
    return base in (LOCK_FILE, SECRETS) or base.startswith(INCOMING)


def _checked(path: str) -> str:
    """Return `path` when it stays below its folder; a bug or an attack otherwise."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidInput(f"{path!r} is not a path inside the storage.")
    return path


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a temporary file beside `target` that replaces it when the block ends well."""
    handle, name = tempfile.mkstemp(prefix=INCOMING, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn what a file system says into errors that tell the user what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not in the storage.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"No room left in the storage while writing {path}.") from error
        raise


@contextmanager
def _remote(path: str) -> Iterator[None]:
    """Turn what may pass, a remote storage that is away or cuts a body short, into Unavailable."""
    # Late: only a remote storage pays for these imports.
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as NoConnection
    from s3fs.core import S3_RETRYABLE_ERRORS

    try:
        yield
    except _LASTING:
        raise
    except (*S3_RETRYABLE_ERRORS, NoConnection, ClientError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(f"The storage does not answer about {path}: {error}.") from error


def _check_length(path: str, got: int, expected: int) -> None:
    # why not `!=`: a log or a report may have grown in between.
    if got < expected:
        raise Unavailable(f"Only {got} of {expected} bytes of {path} arrived.")
