"""A bundle on disk: a folder with a manifest, code and data."""

from __future__ import annotations

import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError

from ..schemas.bundles import MANIFEST, BundleManifest
from ..schemas.errors import InvalidInput
from .archive import ArchiveLimits
from .manifest import RawFile, digest_of, hash_file

#: What is refused in a data set is the normal case in code: wheels, tables in gzip.
BUNDLE_LIMITS = ArchiveLimits(
    allow_archives=True, max_members=60_000, max_total_bytes=64 * 2**30, max_file_bytes=32 * 2**30, max_path_bytes=400
)

_MANIFEST_MAX_BYTES = 100_000
_HINT = "docs/workspace.md describes the manifest; examples/bundle is a bundle."
_OTHER_FILES = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")
#: The same for the same files: times are no content.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class BundleError(InvalidInput):
    """A bundle without a good manifest, or one that does not fit its files."""

    code = "invalid_bundle"
    hint = _HINT


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFolder:
    """A checked bundle."""

    root: Path
    manifest: BundleManifest
    code: list[RawFile]
    """Everything but the data, the manifest included."""
    data: list[RawFile]

    @property
    def code_sha256(self) -> str:
        return digest_of(self.code)

    @property
    def data_sha256(self) -> str:
        return digest_of(self.data)


def open_bundle(folder: Path) -> BundleFolder:
    """Return the bundle in a folder, or in the one folder that it holds.

    Raises:
        BundleError: there is no manifest, it is not valid, or it names what is not there.
    """
    inside = list(folder.iterdir())
    root = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
    manifest = _read_manifest(root / MANIFEST)
    paths = sorted(PurePosixPath(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    _check_paths(manifest, {str(path) for path in paths})
    if manifest.requirements is not None:
        _check_requirements(root / manifest.requirements)
    files = [hash_file(root, path) for path in paths]
    return BundleFolder(
        root=root,
        manifest=manifest,
        code=[file for file in files if not manifest.is_data(file.path)],
        data=[file for file in files if manifest.is_data(file.path)],
    )


def pack(root: Path, files: Iterable[RawFile], target: Path | IO[bytes]) -> None:
    """Write files of a folder as a zip."""
    with zipfile.ZipFile(target, "w") as packed:
        add_to_zip(packed, ((file.path, root / file.path) for file in files))


def add_to_zip(packed: zipfile.ZipFile, files: Iterable[tuple[str, Path]]) -> None:
    """Add files under the names that they get in the zip, in constant memory."""
    for name, source in files:
        info = zipfile.ZipInfo(name, _ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        info.file_size = source.stat().st_size
        with source.open("rb") as stream, packed.open(info, "w") as member:
            while chunk := stream.read(2**20):
                member.write(chunk)


def _read_manifest(path: Path) -> BundleManifest:
    if not path.is_file():
        raise BundleError(f"The bundle has no {MANIFEST} at its top.")
    content = path.read_bytes()
    if len(content) > _MANIFEST_MAX_BYTES:
        raise BundleError(f"{MANIFEST} has more than {_MANIFEST_MAX_BYTES} bytes.")
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is no TOML: {str(error)[:200]}") from error
    try:
        return BundleManifest.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or MANIFEST}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise BundleError(f"{MANIFEST}: {'; '.join(problems[:10])}.") from error


def _check_requirements(path: Path) -> None:
    """Refuse what would make one environment from two different contents: environments are kept by their hash."""
    content = path.read_bytes()
    if len(content) > _MANIFEST_MAX_BYTES:
        raise BundleError(f"requirements: {path.name} has more than {_MANIFEST_MAX_BYTES} bytes.")
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BundleError(f"requirements: {path.name} is not UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip().startswith(_OTHER_FILES):
            raise BundleError(
                f"requirements: {path.name}, line {number}, names another file of requirements or a folder.",
                hint="Write all requirements into one file.",
            )


def _check_paths(manifest: BundleManifest, present: set[str]) -> None:
    folders = {str(parent) for path in present for parent in PurePosixPath(path).parents}
    if manifest.requirements is not None and manifest.requirements not in present:
        raise BundleError(f"requirements: the bundle has no file {manifest.requirements}.")
    if manifest.requirements is not None and manifest.is_data(manifest.requirements):
        raise BundleError(f"requirements: {manifest.requirements} lies in the folder of the data.")
    made: set[str] = set()
    for stage in manifest.stages:
        if not stage.entry_point.endswith(".py") or stage.entry_point not in present:
            raise BundleError(f"stages.{stage.name}.entry_point: the bundle has no Python file {stage.entry_point}.")
        if manifest.is_data(stage.entry_point):
            raise BundleError(f"stages.{stage.name}.entry_point: {stage.entry_point} lies in the folder of the data.")
        for wanted in stage.inputs:
            if wanted not in present and wanted not in folders and wanted not in made:
                raise BundleError(
                    f"stages.{stage.name}.inputs: {wanted} is neither in the bundle nor made by an earlier stage."
                )
        for output in stage.outputs:
            if output in present or output in folders:
                raise BundleError(f"stages.{stage.name}.outputs: {output} is in the bundle already.")
        made.update(stage.outputs)
