from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

MakeTar = Callable[..., bytes]
MakeImages = Callable[..., Path]


@pytest.fixture
def make_tar() -> MakeTar:
    """Return a function that packs members: (name, bytes) files, names ending in / as folders, or TarInfo."""

    def make(
        *members: tuple[str, bytes] | str | tarfile.TarInfo, packed: bool = False, format: int = tarfile.PAX_FORMAT
    ) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                elif isinstance(member, str):
                    folder = tarfile.TarInfo(member)
                    folder.type = tarfile.DIRTYPE
                    tar.addfile(folder)
                else:
                    name, content = member
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return gzip.compress(buffer.getvalue()) if packed else buffer.getvalue()

    return make


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Return a function that writes small images of different colours below a folder and returns it."""

    def make(paths: Iterable[str], root: Path | None = None) -> Path:
        root = root or tmp_path / "raw"
        root.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5 + number % 3, 4), (number % 256, 100, 200)).save(file)
        return root

    return make
