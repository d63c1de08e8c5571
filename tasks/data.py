"""Data sets as a task gets them, made into local folders in the canonical indexed form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..blocks import ArtifactStorage
from ..datasets.formats import data_format
from ..datasets.index import open_index
from ..datasets.manifest import RawManifest
from ..schemas.actions import CONVERSIONS, Action
from ..schemas.errors import DatasetError, NotFound
from ..schemas.reporting import Reporter
from ..schemas.results import JobResult
from ..schemas.specs import parse_spec
from .context import JobContext

#: A data set: what `convert` returned, an address in the storage, or a local folder of images.
DatasetLike = JobResult | str | Path

#: Parts of a data set's folder: the files as uploaded, their manifest, where their index lies.
RAW, RAW_MANIFEST, INDEX_POINTER = "raw", "raw.json", "index.json"

#: Folder of the index in the folder of a convert job.
INDEX = "index"

#: Folder in a data set's folder with the indexes that jobs made because no convert job had.
INDEXES = "indexes"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSource:
    """Images that can be indexed. `stored` is the data set's path when it lies in the storage."""

    folder: Path
    format: str
    type: str | None = None
    digest: str | None = None
    stored: str | None = None


def index_source(
    storage: ArtifactStorage, dataset: str | Path, scratch: Path, format: str | None = None, type: str | None = None
) -> IndexSource:
    """Return the images of a data set as a local folder. `format` and `type` are those of a `dataset` that is one.

    Raises:
        NotFound: there is no such data set, or nothing was uploaded to it.
    """
    if isinstance(dataset, Path) or "://" not in dataset:
        folder = Path(dataset)
        if not folder.is_dir():
            raise NotFound(f"There is no data set folder {folder}.")
        return IndexSource(folder=folder, format=format or "default", type=type)
    path = storage.relative(dataset)
    manifest = _manifest(storage, path)
    raw = storage.local_copy(f"{path}/{RAW}", scratch / "data" / _name(path))
    return IndexSource(folder=raw, format=manifest.format, type=manifest.type, digest=manifest.digest, stored=path)


def remember_index(storage: ArtifactStorage, dataset_path: str, index_path: str, spec: Mapping[str, object]) -> None:
    """Let later jobs find the index of a data set, and make it again in the way of `spec` when they have to."""
    storage.write_json(f"{dataset_path}/{INDEX_POINTER}", {"path": index_path, "spec": dict(spec)})


def index_folder(
    job: JobContext,
    dataset: DatasetLike,
    scratch: Path,
    reporter: Reporter,
    *,
    format: str | None = None,
    type: str | None = None,
) -> Path:
    """Return a local folder with the index of a data set; built on the spot where there is none yet.

    `format` and `type` are for local folders: `default` with a folder of images per class, `unet` with images and
    masks, `kitti`, `coco` or `pascal_voc` with boxes, `raw` without labels.

    Raises:
        DatasetError: the data set is empty, broken or not of its format.
        NotFound: there is no such data set.
    """
    target = scratch / "data"
    target.mkdir(exist_ok=True)
    if isinstance(dataset, JobResult):
        if dataset.action not in CONVERSIONS:
            raise DatasetError(f"The result of {dataset.action} is not a data set.", hint="Give the result of convert.")
        return job.storage.local_copy(f"{job.storage.relative(dataset.uri)}/{INDEX}", target / _name(dataset.uri))
    if isinstance(dataset, str) and "://" in dataset:
        path = job.storage.relative(dataset)
        if (index := _current_index(job.storage, path, target / _name(path))) is not None:
            return index
    source = index_source(job.storage, dataset, scratch, format, type)
    built = target / f"{_name(str(dataset))}-index"
    if not built.exists():
        reporter.log(f"Indexing {source.stored or source.folder}: no convert job has done it.")
        kind = data_format(source.format, source.type)
        told = {} if source.stored is None else _remembered(job.storage, source.stored).get("spec", {})
        spec = kind.specs.get(Action.CONVERT)
        kind.build_index(source.folder, built, reporter, None if spec is None else parse_spec(spec, told))
        if source.stored is not None:
            # For the next job. The name is that of the content, so two jobs at once do no harm.
            kept = f"{source.stored}/{INDEXES}/{source.digest}-{open_index(built).digest[:16]}"
            job.storage.upload_folder(built, kept)
            remember_index(job.storage, source.stored, kept, told)
    return built


def _current_index(storage: ArtifactStorage, path: str, target: Path) -> Path | None:
    """Return the index that a convert job made of exactly the files that are there now."""
    index_path = _remembered(storage, path).get("path")
    if index_path is None or not storage.exists(f"{index_path}/dataset.json"):
        return None  # there was no convert job, or it was deleted
    folder = storage.local_copy(index_path, target)
    return folder if open_index(folder).info.raw_digest == _manifest(storage, path).digest else None


def _remembered(storage: ArtifactStorage, path: str) -> dict[str, Any]:
    """Return what `remember_index` wrote, nothing where it did not."""
    pointer = f"{path}/{INDEX_POINTER}"
    return dict(storage.read_json(pointer)) if storage.exists(pointer) else {}


def _manifest(storage: ArtifactStorage, path: str) -> RawManifest:
    if not storage.exists(f"{path}/{RAW_MANIFEST}"):
        raise NotFound(f"The data set {path} has no files.", hint="Upload images to it first.")
    return RawManifest.model_validate(storage.read_json(f"{path}/{RAW_MANIFEST}"))


def _name(address: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", address).strip("-")[-80:]
