"""Places in clouds that belong to users: what opens them, what lies there, how it gets here.

Whatever is said here comes from a user. Nothing of this machine opens a place: no keys of the
environment, no cached tokens, no address that `Outbound` refuses.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import fsspec
from fsspec.callbacks import Callback
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from ..datasets.names import name_problem
from ..schemas.errors import DatasetError, InvalidInput, NotAvailable, NotFound, TooLarge, Unavailable, YardError
from .reach import Outbound

CloudType = Literal["aws", "azure", "gcp", "huggingface", "self_hosted"]

_GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_CONNECT_S, _READ_S = 20, 60
_PATH_MAX_CHARS = 1024
_HUB_KINDS = ("buckets", "datasets", "kernels", "models", "spaces")

_Bucket = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$")]
_Region = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9-]{0,60}$")]
_Key = Annotated[SecretStr, Field(max_length=10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a place; `name` is below the folder that was listed."""

    name: str
    address: str
    size_bytes: int


class Access(BaseModel):
    """What opens a place. Fields of type `SecretStr` are shown to nobody."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, hide_input_in_errors=True)

    #: Extra of this package that brings the driver.
    extra: ClassVar[str] = ""
    driver: ClassVar[str] = ""

    @abstractmethod
    def options(self, outbound: Outbound) -> dict[str, Any]:
        """Return what the driver is opened with.

        Raises:
            InvalidInput: an address that may not be used from here.
        """

    @abstractmethod
    def root(self, path: str) -> str:
        """Return what the driver calls `path`.

        Raises:
            InvalidInput: there can be nothing at such a path.
        """

    def public(self) -> dict[str, Any]:
        """Return what may be shown."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in self._secrets() and v is not None}

    def secret(self) -> dict[str, str]:
        """Return what may not."""
        found = {name: getattr(self, name) for name in self._secrets()}
        return {name: value.get_secret_value() for name, value in found.items() if value is not None}

    def check(self, outbound: Outbound) -> None:
        """Raise what `open` would raise without a request to the place.

        Raises:
            NotAvailable: this yard lacks the driver.
            InvalidInput: an address that may not be used from here.
        """
        self._driver()
        self.options(outbound)

    def open(self, outbound: Outbound) -> fsspec.AbstractFileSystem:
        driver = self._driver()
        # why: a cached instance would outlive the request with somebody's keys in it.
        return driver(skip_instance_cache=True, use_listings_cache=False, **self.options(outbound))

    def _driver(self) -> type[fsspec.AbstractFileSystem]:
        try:
            found: type[fsspec.AbstractFileSystem] = fsspec.get_filesystem_class(self.driver)
        except (ImportError, ValueError) as error:
            raise NotAvailable(
                f"This yard has no driver for {self.extra}.",
                hint=f"Its operator installs one by `pip install 'prefect-trainyard[{self.extra}]'`.",
            ) from error
        return found

    def _secrets(self) -> list[str]:
        return [name for name, field in type(self).model_fields.items() if "SecretStr" in repr(field.annotation)]


class S3Access(Access):
    """A bucket of Amazon, or of any server that speaks S3 where `endpoint_url` is given."""

    extra, driver = "aws", "s3"

    cloud_bucket_name: _Bucket = Field(validation_alias=AliasChoices("cloud_bucket_name", "bucket"))
    cloud_region: _Region | None = Field(default=None, validation_alias=AliasChoices("cloud_region", "region"))
    endpoint_url: Annotated[str, StringConstraints(max_length=1000)] | None = None
    access_key: _Key | None = None
    secret_key: _Key | None = None
    session_token: _Key | None = None

    @model_validator(mode="after")
    def _both_keys(self) -> S3Access:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together")
        return self

    def options(self, outbound: Outbound) -> dict[str, Any]:
        config: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            # why: an address in the environment of this process is not the users'.
            "ignore_configured_endpoint_urls": True,
            "retries": {"mode": "standard", "total_max_attempts": 3},
            # why: other servers than Amazon's answer ranged requests with the checksum of the whole object.
            "response_checksum_validation": "when_required",
        }
        if self.endpoint_url is not None:
            outbound.check(self.endpoint_url)
            config["connector_args"] = {"resolver": outbound.resolver(), "use_dns_cache": False}
        return {
            # why: without keys the driver would take those of this machine.
            "anon": self.access_key is None,
            "key": _plain(self.access_key),
            "secret": _plain(self.secret_key),
            "token": _plain(self.session_token),
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": self.cloud_region or "us-east-1"},
            "config_kwargs": config,
        }

    def root(self, path: str) -> str:
        return f"{self.cloud_bucket_name}/{path}".rstrip("/")


class SelfHostedAccess(S3Access):
    """A server of the users' own that speaks S3, such as MinIO."""

    endpoint_url: Annotated[str, StringConstraints(max_length=1000)]


class AzureAccess(Access):
    """A container of Azure Blob Storage."""

    extra, driver = "azure", "abfs"

    cloud_bucket_name: _Bucket = Field(validation_alias=AliasChoices("cloud_bucket_name", "container", "bucket"))
    cloud_region: _Region | None = Field(default=None, validation_alias=AliasChoices("cloud_region", "region"))
    # why so strict: it becomes a part of the host's name.
    account_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{3,24}$")]
    access_key: _Key | None = None
    sas_token: _Key | None = None

    def options(self, outbound: Outbound) -> dict[str, Any]:
        return {
            "account_name": self.account_name,
            "account_key": _plain(self.access_key),
            "sas_token": _plain(self.sas_token),
            "anon": self.access_key is None and self.sas_token is None,
        }

    def root(self, path: str) -> str:
        return f"{self.cloud_bucket_name}/{path}".rstrip("/")


class GoogleAccess(Access):
    """A bucket of Google Cloud Storage; `token` is the JSON key of a service account."""

    extra, driver = "gcp", "gcs"

    cloud_bucket_name: _Bucket = Field(validation_alias=AliasChoices("cloud_bucket_name", "bucket"))
    cloud_region: _Region | None = Field(default=None, validation_alias=AliasChoices("cloud_region", "region"))
    token: _Key | None = None

    @field_validator("token", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return json.dumps(value) if isinstance(value, Mapping) else value

    def options(self, outbound: Outbound) -> dict[str, Any]:
        return {"token": self._service_account() if self.token is not None else "anon"}

    def _service_account(self) -> dict[str, str]:
        """Return the key, with nothing in it that makes the driver read files or talk to others than Google."""
        assert self.token is not None
        try:
            given = json.loads(self.token.get_secret_value())
            account = {name: str(given[name]) for name in ("client_email", "private_key", "private_key_id")}
            kind = given["type"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput("token: it is not the JSON key of a service account.") from error
        if kind != "service_account":
            raise InvalidInput("token: only keys of service accounts are taken.")
        return {"type": kind, "token_uri": _GOOGLE_TOKEN_URI, **account}

    def root(self, path: str) -> str:
        return f"{self.cloud_bucket_name}/{path}".rstrip("/")

    def _driver(self) -> type[fsspec.AbstractFileSystem]:
        super()._driver()
        # why not the one that is registered: it asks a second server for the kind of the bucket first, for a minute
        # where the keys do not allow that.
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem


class HuggingFaceAccess(Access):
    """The hub of Hugging Face; paths start with `datasets/OWNER/NAME` or, of a model, with `OWNER/NAME`."""

    extra, driver = "huggingface", "hf"

    token: _Key | None = None

    def options(self, outbound: Outbound) -> dict[str, Any]:
        # why `False`: without a token the driver would take the one of this machine.
        return {"token": _plain(self.token) or False, "endpoint": "https://huggingface.co"}

    def root(self, path: str) -> str:
        kind, _, rest = path.partition("/")
        # why: the driver raises errors of programmers for less than a repository.
        if "/" not in (rest if kind in _HUB_KINDS else path):
            raise InvalidInput(
                f"cloud_file_path: {path!r} names no repository.",
                hint="For example datasets/OWNER/NAME/FOLDER or, of a model, OWNER/NAME/FILE.",
            )
        return path


_ACCESS: dict[CloudType, type[Access]] = {
    "aws": S3Access,
    "self_hosted": SelfHostedAccess,
    "azure": AzureAccess,
    "gcp": GoogleAccess,
    "huggingface": HuggingFaceAccess,
}


def access_to(cloud_type: CloudType, details: Mapping[str, Any]) -> Access:
    """Return what opens a place of a cloud; `ValidationError` when something is missing in `details`."""
    return _ACCESS[cloud_type].model_validate(dict(details))


def checked_path(path: str) -> str:
    """Return a path of a user below a bucket without its slashes at both ends.

    Raises:
        InvalidInput: it leads elsewhere or is no text for people.
    """
    path = path.strip("/")
    if len(path) > _PATH_MAX_CHARS or _is_odd(path):
        raise InvalidInput("cloud_file_path: it is not a path in a bucket.", hint="For example data/train.tar.gz.")
    return path


class Place:
    """A file or folder in a cloud, opened. Every call may take long: not for an event loop."""

    def __init__(self, access: Access, path: str, outbound: Outbound) -> None:
        self._fs = access.open(outbound)
        self._root = access.root(path)
        self._path = path

    def files(self, max_files: int) -> tuple[list[RemoteFile], bool]:
        """Return the files and whether they lie in a folder.

        Raises:
            NotFound, InvalidInput, Unavailable: there is nothing, the keys do not open it, it does not answer.
            DatasetError: names that cannot become files here.
            TooLarge: more files than `max_files`.
        """
        with self._translated():
            info = self._info()
            if info is not None:
                name = self._root.rpartition("/")[2]
                return [RemoteFile(name=name, address=self._root, size_bytes=int(info["size"]))], False
            found = self._fs.find(self._root, detail=True)
        prefix = str(self._fs._strip_protocol(self._root)).rstrip("/") + "/"
        files = [
            RemoteFile(name=address.removeprefix(prefix), address=address, size_bytes=int(info["size"]))
            for address, info in sorted(found.items())
            if info["type"] == "file" and not address.endswith("/")
        ]
        if not files:
            raise NotFound(f"There is nothing at {self._path!r} in the bucket.", hint="See cloud_file_path.")
        if len(files) > max_files:
            raise TooLarge(f"There are more than {max_files} files at {self._path!r}.", hint="Pack them into tars.")
        for file in files:
            if _is_odd(file.name):
                raise DatasetError(f"The file {file.name[:200]!r} has a name that cannot be kept here.")
        return files, True

    def fetch(self, files: Sequence[tuple[RemoteFile, Path]], arrived: Callable[[int], None]) -> None:
        """Copy files to local paths; `arrived` hears how many bytes came and may end it with an exception."""
        for file, target in files:
            target.parent.mkdir(parents=True, exist_ok=True)
            watch = _Watch(file, arrived)
            with self._translated():
                self._fs.get_file(file.address, str(target), callback=watch)
            # why: not every driver tells its callback what arrives.
            watch.has(target.stat().st_size)

    def _info(self) -> Mapping[str, Any] | None:
        """Return what is known of the place as a file, None when it is a folder or nothing."""
        try:
            info: Mapping[str, Any] = self._fs.info(self._root)
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what drivers raise into errors of ours. Their own texts may hold keys: they stay out."""
        try:
            yield
        except YardError:
            raise
        except FileNotFoundError as error:
            raise NotFound(
                f"There is nothing at {self._path!r}.", hint="See cloud_file_path and the bucket."
            ) from error
        except Exception as error:
            # Each driver has errors of its own, of libraries that are not even installed here.
            name = type(error).__name__
            if _is_refusal(error):
                raise InvalidInput("The keys do not open the bucket.", hint="See the keys or the token.") from error
            if isinstance(error, OSError):
                raise Unavailable(f"The cloud does not answer ({name}).", hint="See the region.") from error
            raise Unavailable(f"The cloud refused or broke off ({name}).") from error


class _Watch(Callback):
    """Counts what arrives of one file; more than its size is a lie of the other side."""

    def __init__(self, file: RemoteFile, arrived: Callable[[int], None]) -> None:
        super().__init__()
        self._file = file
        self._came = 0
        self._arrived = arrived

    def relative_update(self, inc: int = 1) -> None:
        self._came += inc
        if self._came > self._file.size_bytes:
            raise TooLarge(f"{self._file.name[:200]!r} has more than its {self._file.size_bytes} bytes.")
        self._arrived(inc)

    def has(self, size_bytes: int) -> None:
        """Count what has arrived without a word."""
        if size_bytes > self._came:
            self.relative_update(size_bytes - self._came)


def _is_refusal(error: Exception) -> bool:
    """Tell whether the cloud did not take the keys."""
    answer = getattr(error, "response", None)
    statuses = (getattr(error, "status_code", None), getattr(error, "code", None), getattr(answer, "status_code", None))
    return (
        isinstance(error, PermissionError)
        or any(str(status) in ("401", "403") for status in statuses)
        # why: gcsfs says so in the text only, and google-auth when it exchanges a key for a token.
        or str(error).startswith("Forbidden")
        or type(error).__name__ == "RefreshError"
    )


def _is_odd(path: str) -> bool:
    parts = path.split("/") if path else []
    return (
        any(part in ("", ".", "..") or len(part.encode(errors="replace")) > 255 for part in parts)
        or "\\" in path
        or name_problem(path) is not None
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
