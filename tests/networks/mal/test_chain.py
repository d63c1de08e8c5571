"""Train on boxes, measure against masks, label what has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_index import build_box_index, open_box_index
from prefect_trainyard.networks.mal.actions import MAL
from prefect_trainyard.networks.mal.model import Labeller, load_model
from prefect_trainyard.networks.mal.spec import EvaluateSpec, InferenceSpec, TrainSpec
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.networks.training import Request
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import DatasetError, JobFailed, SpecError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.schemas.specs import parse_spec
from safetensors.torch import save_file

Spec = Callable[..., TrainSpec]


def train(spec: TrainSpec, out: Path, train_data: Path, eval_data: Path | None, **changes: Any) -> Output:
    given = {"weights": None, "reporter": SilentReporter(), **changes}
    return MAL.train(spec, train_data=train_data, eval_data=eval_data, out=out, **given)


def weights(out: Path, output: Output) -> Path:
    assert output.model is not None
    return out / output.model.path


@pytest.fixture(scope="module")
def model(masked: Path, boxed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen boxes alone, and its masks are good enough to be told from the boxes."""
    torch.set_num_threads(1)
    raw = json.loads(json.dumps(get_network("mal").quick[Action.TRAIN]))
    raw["train"] |= {"num_epochs": 20, "loss_crf_weight": 2.0}
    out = tmp_path_factory.mktemp("model")
    return weights(out, train(parse_spec(TrainSpec, raw), out, boxed, masked))


def evaluated(model: Path, data: Path, out: Path, **flags: bool) -> Output:
    spec = parse_spec(EvaluateSpec, {"evaluate": {"samples": 2, **flags}})
    return MAL.evaluate(spec, model=model, data=data, out=out, reporter=SilentReporter())


def test_masks_learned_from_boxes_fit_the_true_ones(model: Path, masked: Path, tmp_path: Path) -> None:
    found = evaluated(model, masked, tmp_path)
    index = open_box_index(masked)
    sizes = (index.edges[:, 2:] - index.edges[:, :2]).prod(axis=1)
    of_boxes = float((index.areas / sizes).mean())  # the IoU of an object with all of its box
    assert found.kpi["mIoU"] > of_boxes + 0.1
    assert found.kpi["mask_mAP50"] > 0.9
    assert set(found.categorical) == {"IoU", "mask_AP", "AP50", "objects"}
    assert sum(found.categorical["objects"].values()) == len(sizes)


def test_the_teacher_makes_masks_too(model: Path, masked: Path, tmp_path: Path) -> None:
    found = {
        flag: evaluated(model, masked, tmp_path, **{flag: True}).kpi["mIoU"]
        for flag in ("use_teacher_test", "use_mixed_model_test")
    }
    found["student"] = evaluated(model, masked, tmp_path).kpi["mIoU"]
    assert min(found.values()) > 0.6 and len(set(found.values())) == 3
    with pytest.raises(SpecError, match="not both"):
        evaluated(model, masked, tmp_path, use_teacher_test=True, use_mixed_model_test=True)


def test_labels_of_boxes_are_a_data_set_that_others_learn_from(
    model: Path, masked: Path, boxed: Path, tmp_path: Path
) -> None:
    found = MAL.infer(InferenceSpec(), model=model, data=boxed, out=tmp_path, reporter=SilentReporter())
    assert found.kpi["masks"] == found.kpi["objects"] == len(open_box_index(boxed).edges)
    written = json.loads((tmp_path / "inference" / "annotations.json").read_text())
    assert {image["file_name"] for image in written["images"]} == {f"scene_{i:05d}.png" for i in range(12)}
    assert all(0 < entry["score"] <= 1 and entry["area"] > 0 for entry in written["annotations"])
    overlays = sorted((tmp_path / "inference" / "overlays").iterdir())
    assert len(overlays) == 12 and found.artifact(ArtifactKind.PREDICTIONS) is not None

    # beside their pictures they are read as masks, and fit the true ones
    digit_scenes().write_scenes(tmp_path / "raw", "coco", pictures=12, size=(96, 96))
    (tmp_path / "inference" / "annotations.json").replace(tmp_path / "raw" / "annotations.json")
    build_box_index(tmp_path / "raw", "coco", tmp_path / "index", type="instance_segmentation")
    made, true = open_box_index(tmp_path / "index"), open_box_index(masked)
    assert made.has_mask.all() and np.allclose(made.edges, true.edges)
    assert np.abs(made.areas / true.areas - 1).mean() < 0.4


def test_crowds_are_neither_learned_nor_labelled(model: Path, tmp_path: Path) -> None:
    digit_scenes().write_scenes(tmp_path / "raw", "coco", pictures=4, size=(96, 96))
    file = tmp_path / "raw" / "annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    build_box_index(tmp_path / "raw", "coco", tmp_path / "index", type="instance_segmentation")
    found = MAL.infer(InferenceSpec(), model=model, data=tmp_path / "index", out=tmp_path, reporter=SilentReporter())
    assert found.kpi["objects"] == len(content["annotations"]) - 1
    written = json.loads((tmp_path / "inference" / "annotations.json").read_text())
    assert sum("score" not in entry for entry in written["annotations"]) == 1
    measured = evaluated(model, tmp_path / "index", tmp_path)
    assert sum(measured.categorical["objects"].values()) == len(content["annotations"]) - 1


def test_data_without_masks_is_enough_to_train_but_not_to_measure(
    spec: Spec, masked: Path, boxed: Path, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="objects without a mask to compare with: the first is box 1 of") as failure:
        train(spec(), tmp_path / "a", boxed, boxed)
    assert "train.metric" in failure.value.hint
    by_loss = train(spec(train__metric="loss"), tmp_path / "b", boxed, boxed)
    assert "mIoU" not in by_loss.kpi and by_loss.kpi["loss"] > 0 and by_loss.key_metric == "loss"
    alone = train(spec(), tmp_path / "c", boxed, None)
    assert alone.key_metric == "train_loss"
    with pytest.raises(DatasetError, match="objects without a mask"):
        evaluated(model, boxed, tmp_path)


def test_pictures_without_boxes_are_refused(spec: Spec, model: Path, tmp_path: Path) -> None:
    digit_scenes().write_scenes(tmp_path / "raw", "coco", pictures=2, size=(64, 64))
    build_box_index(tmp_path / "raw" / "images", "raw", tmp_path / "index", type="instance_segmentation")
    with pytest.raises(DatasetError, match="inference data set has no boxes"):
        MAL.infer(InferenceSpec(), model=model, data=tmp_path / "index", out=tmp_path, reporter=SilentReporter())
    with pytest.raises(DatasetError, match="training data set has no boxes"):
        train(spec(), tmp_path / "out", tmp_path / "index", None)


def test_a_training_starts_from_another_one_or_from_a_backbone(
    spec: Spec, boxed: Path, model: Path, tmp_path: Path
) -> None:
    one = spec(train__num_epochs=1, train__lr=1e-9)
    output = train(one, tmp_path / "a", boxed, None, weights=model)
    before, after = (load_model(path)[0].student for path in (model, weights(tmp_path / "a", output)))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    plain = tmp_path / "backbone.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), plain)
    assert train(one, tmp_path / "b", boxed, None, weights=plain).model is not None
    with pytest.raises(JobFailed, match="do not belong to resnet10t"):
        train(spec(model__arch="resnet10t"), tmp_path / "c", boxed, None, weights=plain)
    with pytest.raises(JobFailed, match="of another backbone, head or crop size"):
        train(spec(model__mask_head_hidden_channel=16), tmp_path / "d", boxed, None, weights=model)


@pytest.mark.parametrize(
    "arch", ["test_vit", "test_convnext", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)]
)
def test_backbones_of_other_kinds(spec: Spec, boxed: Path, tmp_path: Path, arch: str) -> None:
    made = spec(model__arch=arch, model__vit_dpr=0.1, dataset__crop_size=96, train__num_epochs=1, train__batch_size=16)
    output = train(made, tmp_path, boxed, None)
    record = load_model(weights(tmp_path, output))[1]
    assert record.backbone == arch and record.mask_size == ((12, 12) if arch == "test_vit" else (48, 48))


def test_a_backbone_that_is_none_says_what_to_do(spec: Spec, boxed: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model\.arch: no_such_net cannot be the backbone"):
        train(spec(model__arch="no_such_net"), tmp_path, boxed, None)
    with pytest.raises(SpecError, match="there is no 'fan_tiny_12_p16_224' here"):
        spec(model__arch="fan_tiny_12_p16_224")
    assert spec(model__arch="vit-mae-base/16").model.arch == "vit_base_patch16_224"


def test_the_model_takes_pixels_and_box_as_mlflow_has_it(model: Path) -> None:
    labeller = Labeller(model)
    inputs = torch.zeros(2, *labeller.record.shape)
    inputs[:, -1, 16:48, 16:48] = 255
    assert labeller.logits(inputs).shape == (2, *labeller.record.output_shape)


def test_a_request_survives_the_way_to_other_processes(spec: Spec, boxed: Path, tmp_path: Path) -> None:
    request = Request(
        network="mal", spec=spec(), train_data=boxed, eval_data=None, out=tmp_path, weights=None, is_retrain=False
    )
    assert Request.from_json(json.loads(json.dumps(request.to_json())), TrainSpec) == request


def test_half_precision(spec: Spec, boxed: Path, masked: Path, tmp_path: Path) -> None:
    output = train(spec(train__precision="bf16"), tmp_path, boxed, masked)
    assert np.isfinite(list(output.kpi.values())).all()


def test_the_weight_of_colours_rises_step_by_step(spec: Spec, boxed: Path, tmp_path: Path) -> None:
    losses = {}
    for name, changes in {
        "none": {"train__loss_crf_weight": 0.0},
        "rising": {"train__loss_crf_step": 10**7},
        "whole": {"train__loss_crf_step": 0},
    }.items():
        output = train(spec(train__lr=1e-9, **changes), tmp_path / name, boxed, None)
        losses[name] = output.kpi["train_loss"]
    assert losses["none"] < losses["rising"] < losses["whole"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_model(spec: Spec, boxed: Path, masked: Path, tmp_path: Path) -> None:
    output = train(spec(gpus=2, train__num_epochs=2), tmp_path, boxed, masked)
    assert output.latest_epoch == 2 and 0 < output.kpi["mIoU"] <= 1
