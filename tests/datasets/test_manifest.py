from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from prefect_trainyard.datasets.manifest import RawManifest, build_manifest
from prefect_trainyard.schemas.errors import DatasetError

TWO = ["images/cat/1.png", "images/cat/2.png", "images/dog/1.png"]


def test_every_file_has_size_and_hash(make_images) -> None:
    root = make_images(TWO)
    (root / "classes.txt").write_text("dog\ncat\n")
    (root / ".DS_Store").write_bytes(b"litter")
    manifest = build_manifest(root, "default")
    assert [file.path for file in manifest.files] == ["classes.txt", *TWO]
    for file in manifest.files:
        content = (root / file.path).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest.classes == {"dog": 1, "cat": 2}
    assert list(manifest.classes) == ["dog", "cat"]
    assert (manifest.type, manifest.format) == ("image_classification", "default")


def test_it_survives_json(make_images) -> None:
    manifest = build_manifest(make_images(TWO), "default")
    assert RawManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_the_digest_is_that_of_names_and_contents_alone(make_images, tmp_path: Path) -> None:
    digest = build_manifest(make_images(TWO, tmp_path / "a"), "default").digest
    other = make_images(TWO, tmp_path / "b")
    assert build_manifest(other, "default").digest == digest
    (other / "images/cat/1.png").rename(other / "images/dog/9.png")
    assert build_manifest(other, "default").digest != digest


def test_a_raw_set_has_no_classes(make_images) -> None:
    assert build_manifest(make_images(TWO), "raw").classes == {}


def test_a_wrong_layout_is_refused(make_images) -> None:
    with pytest.raises(DatasetError, match="In no class folder"):
        build_manifest(make_images(["1.png"]), "default")
