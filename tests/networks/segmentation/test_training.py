"""What training promises: the same weights after a stop, sensible errors, classes of the data or of the spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.classification.heads import labels_for
from prefect_trainyard.networks.classification.model import Record
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.networks.segmentation.metrics import loss_of, score
from prefect_trainyard.networks.segmentation.model import load_model
from prefect_trainyard.schemas.errors import DatasetError, JobFailed, SpecError
from prefect_trainyard.schemas.results import ArtifactKind, Output
from safetensors.torch import load_file, save_file

AUGMENTATION = {"rotation": 10.0, "hue": 0.1, "vertical_flip": 0.5}


def options(network: str, **changes: Any) -> dict[str, Any]:
    if network == "unet":
        return {
            "model": {"arch": "test_resnet", "decoder_channels": 32},
            "dataset_config": {"workers": 0, "augmentation_config": AUGMENTATION},
            "training_config": {"epochs": 3, "batch_size": 5, "deterministic": True, **changes},
        }
    return {
        "dataset": {"batch_size": 5, "workers": 0, "augmentation": AUGMENTATION},
        "train": {"max_iters": 12, "num_rounds": 3, "deterministic": True, **changes},
    }


@pytest.fixture
def train(scenes: Path, parse: Callable[..., Any], make_recorder: Callable[..., Any]) -> Callable[..., Output]:
    def run(
        network: str, out: Path, reporter: Any = None, action: str = "train", spec: Any = None, **changes: Any
    ) -> Output:
        data = {"weights": None, "train_data": scenes / "few", "eval_data": scenes / "few", **changes}
        method = getattr(load_implementation(get_network(network)), action)
        asked = parse(network, "train", **(spec or options(network)))
        result: Output = method(asked, out=out, reporter=reporter or make_recorder(), **data)
        return result

    return run


def latest(out: Path, result: Output) -> dict[str, torch.Tensor]:
    return load_file(out / f"train/model_epoch_{result.latest_epoch:03d}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("network", "stop_at"), [("unet", 4), ("segformer", 7)])
def test_a_stopped_training_goes_on_to_the_same_weights(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any], network: str, stop_at: int
) -> None:
    whole = train(network, tmp_path / "whole")
    part = train(network, tmp_path / "part", make_recorder(lambda r: r.checks == stop_at))
    assert "resumed" in part.message
    rest = train(network, tmp_path / "part")
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "part", rest))
    assert (rest.best_epoch, rest.kpi) == (whole.best_epoch, whole.kpi)
    assert set(rest.categorical["IoU"]) == {"background", "zero", "one"}


@pytest.mark.parametrize("network", ["unet", "segformer"])
def test_a_training_in_parts_gives_the_weights_of_one(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any], network: str
) -> None:
    whole = train(network, tmp_path / "whole")
    recorders = [make_recorder() for _ in range(2)]
    parts = [train(network, tmp_path / "parts", r, until_epoch=end) for r, end in zip(recorders, (1, 9), strict=True)]
    assert [[epoch for epoch, _ in recorder.epochs] for recorder in recorders] == [[1], [2, 3]]
    assert [bool(part.categorical) for part in parts] == [False, True]
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "parts", parts[1]))


def test_segformer_counts_iterations(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    recorder = make_recorder()
    train("segformer", tmp_path, recorder, spec=options("segformer", max_iters=7, num_rounds=2))
    assert "2 rounds of 4 iterations; an epoch is a round here." in recorder.lines
    assert [epoch for epoch, _ in recorder.epochs] == [1, 2]


def test_worker_processes_change_nothing(tmp_path: Path, train: Callable[..., Output]) -> None:
    asked = options("unet", epochs=1)
    plain = latest(tmp_path / "a", train("unet", tmp_path / "a", spec=asked))
    asked["dataset_config"] |= {"workers": 2, "cache_mb": 0}
    assert same(plain, latest(tmp_path / "b", train("unet", tmp_path / "b", spec=asked)))


@pytest.mark.parametrize("loss", ["cross_entropy", "cross_dice_sum", "dice"])
def test_every_loss_falls(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any], loss: str
) -> None:
    recorder = make_recorder()
    train("unet", tmp_path, recorder, spec=options("unet", loss=loss, epochs=4, learning_rate=0.01))
    losses = [metrics["train_loss"] for _, metrics in recorder.epochs]
    assert losses[-1] < losses[0]


def test_without_evaluation_data_the_training_loss_ranks(tmp_path: Path, train: Callable[..., Output]) -> None:
    assert train("unet", tmp_path, eval_data=None).key_metric == "train_loss"


def test_classes_of_the_spec_rename_merge_and_ignore(
    tmp_path: Path, train: Callable[..., Output], make_index: Callable[..., Path]
) -> None:
    data = make_index("data", np.resize(np.array([0, 1, 2, 9], np.uint8), (32, 32)))
    asked = options("unet", epochs=1)
    asked["dataset_config"]["data_class_config"] = {
        "target_classes": [
            {"name": "ground", "label_id": 0},
            {"name": "car", "label_id": 1, "mapping_class": "vehicle"},
            {"name": "bus", "label_id": 2, "mapping_class": "vehicle"},
            {"name": "unclear", "label_id": 9, "mapping_class": "ignore"},
        ]
    }
    result = train("unet", tmp_path / "out", spec=asked, train_data=data, eval_data=data)
    assert result.classes == ["ground", "vehicle"]
    assert result.confusion is not None
    assert np.array(result.confusion).sum() == 3 * 32 * 32 // 4


def test_a_palette_reads_colour_masks(
    tmp_path: Path, train: Callable[..., Output], make_index: Callable[..., Path]
) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16] = (128, 0, 0)
    data = make_index("data", red, red)
    asked = options("segformer", max_iters=1, num_rounds=1)
    assert train("segformer", tmp_path / "a", spec=asked, train_data=data, eval_data=data).classes == ["0", "#800000"]
    asked["dataset"]["palette"] = [
        {"seg_class": "rest", "label_id": 0, "rgb": [0, 0, 0]},
        {"seg_class": "roof", "label_id": 1, "rgb": [128, 0, 0]},
    ]
    assert train("segformer", tmp_path / "b", spec=asked, train_data=data, eval_data=data).classes == ["rest", "roof"]


def test_bad_data_is_named(
    tmp_path: Path, scenes: Path, train: Callable[..., Output], make_index: Callable[..., Path]
) -> None:
    with pytest.raises(DatasetError, match="training data set has no masks"):
        train("unet", tmp_path / "a", train_data=scenes / "raw")
    with pytest.raises(DatasetError, match="evaluation data set has no masks"):
        train("unet", tmp_path / "b", eval_data=scenes / "raw")
    two = np.resize(np.array([0, 1], np.uint8), (32, 32))
    strange = make_index("strange", two, two + 6)
    with pytest.raises(DatasetError, match=r"masks/1\.png holds values that are of no class: 6, 7.*0 \(background\)"):
        train("unet", tmp_path / "c", eval_data=strange)
    with pytest.raises(DatasetError, match="only '0' occurs"):
        train("unet", tmp_path / "d", train_data=make_index("one", two * 0))
    asked = options("unet")
    asked["dataset_config"]["data_class_config"] = {
        "target_classes": [{"name": "x", "label_id": 0}, {"name": "y", "label_id": 1}]
    }
    with pytest.raises(DatasetError, match=r"masks/scene_\d+\.png holds values that are of no class: 2"):
        train("unet", tmp_path / "e", spec=asked)
    unknown = options("unet")
    unknown["model"]["arch"] = "resnet_18"
    with pytest.raises(SpecError, match=r"Similar names: .*resnet18"):
        train("unet", tmp_path / "f", spec=unknown)
    unknown["model"]["arch"] = "vit_tiny_patch16_224"
    with pytest.raises(SpecError, match=r"model\.arch: vit_tiny_patch16_224 cannot be the encoder"):
        train("unet", tmp_path / "g", spec=unknown)
    with pytest.raises(JobFailed, match="weights of its parent"):
        train("unet", tmp_path / "h", action="retrain")


def test_masks_are_no_labels_for_a_classifier(scenes: Path) -> None:
    classes = ["background", "zero", "one"]
    record = Record(backbone="test_resnet", classes=classes, channels=3, width=32, height=32, mean=[0.5], std=[0.5])
    with pytest.raises(DatasetError, match="no labels"):
        labels_for(open_index(scenes / "few"), record, "training")


def test_pixels_without_a_class_change_no_loss() -> None:
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    half = labels.clone()
    half[:, 4:] = 255
    for kind in ("cross_entropy", "dice", "cross_dice_sum"):
        assert torch.isclose(loss_of(logits, half, kind), loss_of(logits[:, :, :4], labels[:, :4], kind))
        assert torch.isfinite(loss_of(logits, torch.full_like(labels, 255), kind))


def test_metrics_of_a_confusion() -> None:
    scores = score(np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]]), 0.5, ["a", "b", "absent"])
    assert scores.per_class["a"] == {"IoU": 0.75, "accuracy": 0.75, "dice": pytest.approx(12 / 14), "pixels": 8.0}
    assert scores.kpi["mIoU"] == pytest.approx((0.75 + 4 / 6) / 2)
    assert scores.kpi["pixel_accuracy"] == pytest.approx(10 / 12)


def test_base_weights_are_taken_over(
    tmp_path: Path, train: Callable[..., Output], make_index: Callable[..., Path], make_recorder: Callable[..., Any]
) -> None:
    base = train("unet", tmp_path / "base", spec=options("unet", epochs=1))
    weights = tmp_path / "base" / base.artifacts[0].path
    again, other = make_recorder(), make_recorder()
    train("unet", tmp_path / "again", again, spec=options("unet", epochs=1), weights=weights)
    assert any("with the last layer" in line for line in again.lines)
    two = make_index("two", *[np.resize(np.array([0, 1], np.uint8), (32, 32))] * 3)
    fine = train(
        *("unet", tmp_path / "two", other),
        spec=options("unet", epochs=1),
        weights=weights,
        train_data=two,
        eval_data=None,
    )
    assert any("without the last layer" in line for line in other.lines)
    assert load_model(tmp_path / "two" / fine.artifacts[0].path)[1].classes == ["0", "1"]
    wider = options("unet", epochs=1)
    wider["model"]["decoder_channels"] = 64
    with pytest.raises(JobFailed, match=r"decoder of 32 channels, and the spec asks for .* 64"):
        train("unet", tmp_path / "wide", spec=wider, weights=weights)
    with pytest.raises(JobFailed, match="of unet on test_resnet"):
        train("segformer", tmp_path / "seg", weights=weights)


def test_plain_weights_of_an_encoder_are_taken_over(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    import timm

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "plain.safetensors")
    recorder = make_recorder()
    asked = options("unet", epochs=1)
    train("unet", tmp_path / "out", recorder, spec=asked, weights=tmp_path / "plain.safetensors")
    assert any("tensors taken over" in line for line in recorder.lines)
    save_file({"x.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(JobFailed, match="do not belong to test_resnet"):
        train("unet", tmp_path / "bad", spec=asked, weights=tmp_path / "other.safetensors")


def test_a_spec_is_refused_with_its_path(parse: Callable[..., Any]) -> None:
    for network, section, words in (
        ("unet", {"model": {"input_width": 100}}, "model.input_width: .*multiple of 32"),
        ("unet", {"model": {"input_width": 64}}, "set both"),
        ("unet", {"training_config": {"epochs": 0}}, r"training_config\.epochs"),
        (
            "unet",
            {"dataset_config": {"data_class_config": {"target_classes": [{"name": "x", "label_id": 1}] * 2}}},
            "same label_id",
        ),
        ("segformer", {"dataset": {"palette": [{"seg_class": "x", "label_id": 1}]}}, "at least two classes"),
        ("segformer", {"dataset": {"palette": [{"seg_class": "x", "label_id": 1, "rgb": [1, 2, 300]}]}}, "0 to 255"),
        ("segformer", {"model": {"backbone": {"type": "fan_tiny_8_p4_hybrid"}}}, r"model\.backbone\.type"),
    ):
        with pytest.raises(SpecError, match=words):
            parse(network, "train", **section)


@pytest.mark.slow
def test_two_processes_train_one_model_and_resume(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    two = {**options("unet", epochs=2), "gpus": 2}
    whole = train("unet", tmp_path / "whole", spec=two)
    train("unet", tmp_path / "part", make_recorder(lambda r: bool(r.epochs)), spec=two)
    rest = train("unet", tmp_path / "part", spec=two)
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "part", rest))
    assert any(artifact.kind == ArtifactKind.CHECKPOINT for artifact in rest.artifacts)
