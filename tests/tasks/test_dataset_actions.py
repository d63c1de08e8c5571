"""Actions of data sets as tasks in somebody's own flow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from box_sets import digit_scenes
from prefect import flow
from prefect_trainyard.blocks import load_storage
from prefect_trainyard.datasets.box_formats import read_boxes
from prefect_trainyard.datasets.box_index import open_box_index
from prefect_trainyard.datasets.formats import data_format
from prefect_trainyard.datasets.manifest import RawManifest, digest_of, hash_file
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import ActionNotAllowed, DatasetError, InvalidInput, SpecError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, JobResult
from prefect_trainyard.tasks import analyze, annotation_format_convert, augment, convert, kmeans, train, validate
from prefect_trainyard.tasks.context import JobContext
from prefect_trainyard.tasks.data import INDEXES, RAW, RAW_MANIFEST, index_folder, remember_index


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: MLflow takes seconds to make its tables."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _local(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{home}/storage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for format in ("kitti", "coco"):
        digit_scenes().write_scenes(root / format, format, pictures=8)
    return root


@flow
def run_it(task: Callable[..., JobResult], folder: str, format: str, **more: Any) -> JobResult:
    return task(folder, format=format, **more)


def files_of(result: JobResult) -> Path:
    return Path(result.uri.removeprefix("file://"))


def test_convert_gives_classes_other_names(scenes: Path) -> None:
    mapping = [{"key": "digit_3", "value": "odd"}, {"key": "digit_5", "value": "odd"}]
    spec = {"target_class_mapping": mapping, "kitti_config": {"image_extension": ".jpg"}, "gpus": 1}
    action = Action.CONVERT_EFFICIENTDET_TF1
    result = run_it(convert, str(scenes / "kitti"), "kitti", spec=spec, action=action)
    index = open_box_index(files_of(result) / "index")
    assert result.action == action and result.classes == index.classes == ["odd", "digit_8"]
    assert result.kpi == {"images": 8, "classes": 2, "boxes": len(index.box_labels)}
    assert result.categorical == {"boxes": index.info.class_counts}
    assert result.dataset_digests == {"source": index.digest}
    assert {a.path for a in result.artifacts} == {
        *("index/boxes.parquet", "index/dataset.json", "index/images.bin", "index/index.parquet")
    }


def test_convert_cuts_boxes_off_when_it_is_told_to(scenes: Path, tmp_path: Path) -> None:
    digit_scenes().write_scenes(tmp_path / "raw", "kitti", pictures=2)
    (tmp_path / "raw/labels/scene_00001.txt").write_text("digit_3 0 0 0 -5 2 30 40 0 0 0 0 0 0 0\n")
    with pytest.raises(DatasetError, match=r"labels/scene_00001\.txt, line 1: the box .* outside=clip"):
        run_it(convert, str(tmp_path / "raw"), "kitti")
    result = run_it(convert, str(tmp_path / "raw"), "kitti", spec={"outside": "clip"})
    index = open_box_index(files_of(result) / "index")
    assert index.edges[index.of(1)].tolist() == [[0, 2, 30, 40]]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"target_class_mapping": [{"key": "three", "value": "3"}]}, "no class 'three'"),
        ({"target_class_mapping": [{"key": "digit_3", "value": "a"}] * 2}, "'digit_3' is there twice"),
        ({"target_class_mapping": [{"name": "digit_3"}]}, r"target_class_mapping\.0\.key"),
        ({"outside": "keep"}, "outside"),
        ({"augmentation": {}}, "Unknown section 'augmentation'"),
    ],
)
def test_convert_refuses_what_it_cannot_do(scenes: Path, spec: dict[str, Any], words: str) -> None:
    with pytest.raises((DatasetError, SpecError), match=words):
        run_it(convert, str(scenes / "kitti"), "kitti", spec=spec)


def test_annotations_go_into_another_format_and_back(scenes: Path) -> None:
    spec = {"data": {"input_format": "KITTI", "output_format": "COCO"}}
    there = run_it(annotation_format_convert, str(scenes / "kitti"), "kitti", spec=spec)
    folder = files_of(there) / "dataset"
    assert {a.kind for a in there.artifacts} == {ArtifactKind.DATASET} and len(there.artifacts) == 9
    assert len(json.loads((folder / "annotations.json").read_text())["images"]) == 8
    back = run_it(annotation_format_convert, str(folder), "coco")
    first, second = read_boxes(scenes / "kitti", "kitti"), read_boxes(files_of(back) / "dataset", "kitti")
    assert [p.boxes for p in first.pictures] == [p.boxes for p in second.pictures]
    assert back.kpi == {"images": 8, "boxes": first.box_count, "classes": 3}
    for wrong in ({"input_format": "COCO"}, {"output_format": "KITTI"}):
        with pytest.raises(InvalidInput, match=r"data\.\w+put_format"):
            run_it(annotation_format_convert, str(scenes / "kitti"), "kitti", spec={"data": wrong})


def test_analysis_has_tables_and_figures(scenes: Path) -> None:
    result = run_it(analyze, str(scenes / "coco"), "coco")
    boxes = read_boxes(scenes / "coco", "coco")
    assert result.kpi["boxes"] == boxes.box_count and result.kpi["problems"] == 0 and result.kpi["images"] == 8
    assert result.categorical["boxes"] == boxes.class_counts()
    names = [a.path for a in result.artifacts]
    assert names[:3] == ["analysis/summary.json", "analysis/classes.csv", "analysis/problems.csv"]
    assert [a.kind for a in result.artifacts[3:]] == [ArtifactKind.FIGURE] * 4
    assert all((files_of(result) / name).stat().st_size for name in names)
    plain = run_it(analyze, str(scenes / "coco"), "coco", spec={"figures": False})
    assert len(plain.artifacts) == 3


def test_validation_lists_every_problem(tmp_path: Path) -> None:
    digit_scenes().write_scenes(tmp_path / "raw", "kitti", pictures=3)
    (tmp_path / "raw/labels/scene_00001.txt").write_text("digit_3 0 0 0 1 2\ndigit_3 0 0 0 1 2 900 9 0 0 0 0 0 0 0\n")
    picture = tmp_path / "raw/images/scene_00002.png"
    picture.write_bytes(picture.read_bytes()[:2000])
    result = run_it(validate, str(tmp_path / "raw"), "kitti")
    assert result.kpi["problems"] == 3 and result.message.endswith("3 problems.")
    assert set(result.categorical["problems"]) == {"wrong columns", "box outside the picture", "unreadable picture"}
    told = (files_of(result) / "analysis/problems.csv").read_text()
    assert '"labels/scene_00001.txt, line 2"' in told and "images/scene_00002.png" in told
    with pytest.raises(DatasetError, match="no folder `image_2` or `images`"):
        run_it(validate, str(tmp_path / "raw/labels"), "kitti")


def test_instances_without_masks_are_problems(scenes: Path, tmp_path: Path) -> None:
    run = run_it(annotation_format_convert, str(scenes / "kitti"), "kitti")
    folder, kind = str(files_of(run) / "dataset"), "instance_segmentation"
    assert run_it(validate, folder, "coco").kpi["problems"] == 0
    assert set(run_it(validate, folder, "coco", type=kind).categorical["problems"]) == {"missing mask"}
    with pytest.raises(DatasetError, match="it has no segmentation"):
        run_it(convert, folder, "coco", type=kind)
    whole = run_it(convert, str(scenes / "coco"), "coco", type=kind)
    assert open_box_index(files_of(whole) / "index").info.type == kind
    with pytest.raises(ActionNotAllowed, match="no action 'kmeans'"):
        run_it(kmeans, str(scenes / "coco"), "coco", type=kind)


@flow
def converted_first(folder: str) -> JobResult:
    kind = "instance_segmentation"
    parent = convert(folder, format="coco", type=kind)
    spec = json.loads(json.dumps(get_network("mask_rcnn").quick[Action.TRAIN]))
    return train(folder, network="mask_rcnn", spec={**spec, "num_epochs": 1}, parent=parent)


def test_a_training_may_come_after_the_conversion_of_its_data(scenes: Path) -> None:
    result = converted_first(str(scenes / "coco"))
    assert result.action is Action.TRAIN and result.parent_uri is not None and result.model is not None


def test_augmented_sets_can_be_converted(scenes: Path) -> None:
    result = run_it(augment, str(scenes / "kitti"), "kitti", spec={"copies": 2, "rotation": 10})
    assert result.kpi["images"] == 24
    again = run_it(convert, str(files_of(result) / "dataset"), "kitti")
    assert again.kpi["boxes"] == result.kpi["boxes"] and again.classes == result.classes
    with pytest.raises(SpecError, match="flip_horizontal"):
        run_it(augment, str(scenes / "kitti"), "kitti", spec={"flip_horizontal": 2})


def test_anchors_are_in_pixels_of_the_input(scenes: Path) -> None:
    spec = {"size_x": 320, "size_y": 256, "num_clusters": 3}
    result = run_it(kmeans, str(scenes / "kitti"), "kitti", spec=spec)
    found = json.loads((files_of(result) / "anchors.json").read_text())
    assert found["input_size"] == [320, 256] and len(found["anchors"]) == 3
    areas = [width * height for width, height in found["anchors"]]
    assert areas == sorted(areas) and 0.5 < result.kpi["mean_iou"] <= 1
    assert result.categorical["width"]["anchor 1"] == found["anchors"][0][0]
    with pytest.raises(DatasetError, match="different sizes"):
        run_it(kmeans, str(scenes / "kitti"), "kitti", spec={"num_clusters": 100})


def test_pictures_alone_have_no_actions(scenes: Path) -> None:
    with pytest.raises(ActionNotAllowed, match=r"format raw has no action 'convert'\. It has none"):
        run_it(convert, str(scenes / "kitti/images"), "raw", type="object_detection")


def test_an_index_is_made_again_in_the_way_of_the_last_convert(scenes: Path, tmp_path: Path) -> None:
    storage = load_storage()
    kind, root = data_format("kitti"), "acme/datasets/one"
    piece = kind.read_piece(scenes / "kitti")
    placed = {str(p.target): p.described(hash_file(scenes / "kitti", source)) for source, p in piece.items()}
    for path in placed:
        storage.upload_file(scenes / "kitti" / path, f"{root}/{RAW}/{path}")
    files = list(placed.values())
    manifest = RawManifest(type=kind.type, format="kitti", files=files, digest=digest_of(files), classes={})
    storage.write_json(f"{root}/{RAW_MANIFEST}", manifest.model_dump(mode="json"))
    mapping = [{"key": "digit_3", "value": "three"}]
    remember_index(storage, root, "acme/jobs/gone/index", {"target_class_mapping": mapping})
    job = JobContext(org="acme", job_id="job", experiment="e", storage=storage)
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        index = open_box_index(index_folder(job, storage.address(root), folder, SilentReporter()))
        assert index.classes == ["three", "digit_5", "digit_8"]
    (kept,) = storage.list_names(f"{root}/{INDEXES}")
    assert storage.read_json(f"{root}/index.json")["path"] == f"{root}/{INDEXES}/{kept}"
