"""The manifest of what a user uploaded: every file with size and hash, and one digest for all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from .folder import read_folder
from .image_folder import scan_images
from .parallel import map_in_order


class RawFile(BaseModel):
    """One file of a raw data set."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="Path below the root of the set, with forward slashes.")
    size_bytes: int = Field(ge=0)
    sha256: str
    mask_values: list[int] | None = Field(default=None, description="What values occur in it, when it is a mask.")
    boxes: dict[str, int] | None = Field(default=None, description="Boxes per class, when it is an annotation.")
    pictures: list[str] | None = Field(default=None, description="What it annotates, when that is several pictures.")


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """Where a file of an uploaded piece belongs in the whole set, and what its `RawFile` says of its content."""

    target: PurePosixPath
    mask_values: list[int] | None = None
    boxes: dict[str, int] | None = None
    pictures: list[str] | None = None

    def described(self, file: RawFile) -> RawFile:
        """Return the file, hashed where it lay, as the manifest of the whole set has it."""
        return file.model_copy(
            update={
                "path": str(self.target),
                "mask_values": self.mask_values,
                "boxes": self.boxes,
                "pictures": self.pictures,
            }
        )


class RawManifest(BaseModel):
    """What a raw data set holds. Stored beside it as `raw.json`."""

    type: str = "image_classification"
    format: str
    files: list[RawFile] = Field(description="Sorted by path.")
    digest: str = Field(description="SHA-256 over all paths and hashes: the version of the data.")
    classes: dict[str, int] = Field(
        description="Images per class, or boxes in a set with boxes, in the order of the labels; empty without labels."
    )


def build_manifest(root: Path, format: str) -> RawManifest:
    """Return the manifest of the image set below `root`. Hidden files and the like are not in it.

    Raises:
        DatasetError: the layout is not that of `format`. Images are not decoded, see `check_layout`.
    """
    classes = scan_images(root, format).class_counts()
    files = list(map_in_order(lambda path: hash_file(root, path), read_folder(root).files))
    return RawManifest(format=format, files=files, digest=digest_of(files), classes=classes)


def hash_file(root: Path, path: PurePosixPath) -> RawFile:
    """Return name, size and hash of the file `path` below `root`."""
    with (root / path).open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return RawFile(path=str(path), size_bytes=stream.tell(), sha256=sha256)


def digest_of(files: Iterable[RawFile]) -> str:
    """Return one hash for a set of files: the same for the same names and contents in any order."""
    digest = hashlib.sha256()
    for path, sha256 in sorted((file.path, file.sha256) for file in files):
        digest.update(f"{sha256}  {path}\n".encode())
    return digest.hexdigest()
