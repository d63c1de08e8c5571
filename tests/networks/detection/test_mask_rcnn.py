from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_sets import digit_scenes
from networks.detection.detector_contract import CLASSES, SIZE, DetectorContract, Few, Learned
from PIL import Image
from prefect_trainyard.datasets.box_index import build_box_index
from prefect_trainyard.datasets.boxes import RunLengths
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.faster_rcnn import rois
from prefect_trainyard.networks.detection.mask_rcnn import MaskRCNN, build
from prefect_trainyard.networks.detection.masks import unpack
from prefect_trainyard.networks.detection.model import Record
from prefect_trainyard.networks.detection.plans import recipe_of, settings_of
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import DatasetError, SpecError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.schemas.specs import parse_spec
from prefect_trainyard.testing.networks import quick_spec

REPORTER = SilentReporter()
NETWORK = get_network("mask_rcnn")


def small(**options: Any) -> MaskRCNN:
    quick = {**NETWORK.quick[Action.TRAIN]["maskrcnn_config"], "arch": "resnet10t", **options}
    return build(
        Record(
            network="mask_rcnn",
            backbone="resnet10t",
            options=quick,
            classes=CLASSES,
            channels=3,
            width=SIZE,
            height=SIZE,
            mean=[0.5] * 3,
            std=[0.5] * 3,
        )
    )


class TestMaskRCNN(DetectorContract):
    rate = 2e-3

    @staticmethod
    def build() -> Detector:
        return small()

    def test_the_masks_are_those_of_the_objects(self, learned: Learned, few: Few) -> None:
        detector = learned.detector
        with torch.inference_mode():
            boxes_BN4, _, masks_BNX = detector.eval()(few.inputs_BCHW)
        side = detector.mask_side
        assert masks_BNX.shape == (*boxes_BN4.shape[:2], side**2)
        assert masks_BNX.min() >= 0 and masks_BNX.max() <= 1
        for boxes_N4, masks_NX, target in zip(boxes_BN4, masks_BNX, few.targets, strict=True):
            assert target.masks is not None
            for box, truth in zip(target.boxes, target.masks, strict=True):
                nearest = int((boxes_N4 - box).abs().sum(dim=1).argmin())
                x1, y1, x2, y2 = boxes_N4[nearest].round().int().clamp(0, SIZE).tolist()
                cells = masks_NX[nearest].reshape(1, 1, side, side)
                found = torch.nn.functional.interpolate(cells, (y2 - y1, x2 - x1), mode="bilinear")[0, 0] > 0.5
                pasted = torch.zeros(SIZE, SIZE, dtype=torch.bool)
                pasted[y1:y2, x1:x2] = found
                assert (pasted & truth).sum() / (pasted | truth).sum() > 0.5


def test_the_weights_of_the_losses_have_an_effect(few: Few) -> None:
    losses = {}
    for name in ("", "rpn_box_loss_weight", "fast_rcnn_box_loss_weight", "mrcnn_weight_loss_mask"):
        torch.manual_seed(0)
        detector = small(**({name: 0.0} if name else {})).eval()
        with torch.no_grad():
            losses[name] = float(detector(few.inputs_BCHW, few.targets))
    assert all(losses[name] < losses[""] - 1e-4 for name in losses if name), losses


def train_spec(**values: Any) -> Any:
    return parse_spec(NETWORK.spec(Action.TRAIN), values)


def test_the_words_of_the_document_are_understood() -> None:
    spec = train_spec(
        learning_rate_steps="[100, 200]",
        learning_rate_decay_levels="[0.1, 0.02, 0.002]",
        warmup_steps=50,
        data_config={"image_size": "(96, 160)", "num_classes": 4, "augment_input_data": False},
        maskrcnn_config={"aspect_ratios": "[(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)]"},
    )
    settings, recipe = settings_of(spec), recipe_of(spec)
    assert settings.policy == "step" and settings.drops == ((100, 0.1), (200, 0.02)) and settings.warmup_steps == 50
    assert (recipe.width, recipe.height, recipe.most_classes) == (160, 96, 4)
    assert recipe.options["aspect_ratios"] == [1.0, 2.0, 0.5] and recipe.augmentation.flip == 0
    plain = settings_of(train_spec(num_epochs=20))
    assert (plain.policy, plain.warmup_epochs, plain.drops) == ("cosine", 2.0, ())
    assert recipe_of(train_spec()).augmentation.flip == 0.5


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"learning_rate_steps": [200, 100]}, "learning_rate_steps rise"),
        ({"learning_rate_steps": [1, 2, 3, 4]}, "has 4 steps, and learning_rate_decay_levels 3 levels"),
        ({"learning_rate_steps": "[many]"}, "'many' is no number"),
        ({"data_config": {"image_size": [96]}}, "height and width"),
        ({"data_config": {"image_size": "(100, 96)"}}, "multiple of 32"),
        ({"maskrcnn_config": {"aspect_ratios": "[(1.0, 0)]"}}, "pairs"),
        ({"maskrcnn_config": {"rpn_negative_overlap": 0.8}}, "at most rpn_positive_overlap"),
        ({"maskrcnn_config": {"mrcnn_resolution": 15}}, "multiple of 2"),
        ({"eval_config": {"metric": "accuracy"}}, "mask_mAP50"),
    ],
)
def test_a_wrong_spec_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        train_spec(**values)


@dataclass(frozen=True)
class Trained:
    data: Path
    weights: Path
    graph: Path
    kpi: dict[str, float]


def file_of(out: Path, result: Output, kind: ArtifactKind) -> Path:
    found = result.artifact(kind, result.best_epoch) or result.artifact(kind)
    assert found is not None
    return out / found.path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A network that knows twelve scenes by heart, and its graph."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("masks")
    digit_scenes().write_scenes(root / "raw", "coco", pictures=12, size=(64, 64))
    build_box_index(root / "raw", "coco", root / "index", type=NETWORK.dataset_type)
    ours = load_implementation(NETWORK)
    result = ours.train(
        quick_spec(NETWORK, Action.TRAIN, 25),
        train_data=root / "index",
        eval_data=root / "index",
        out=root,
        weights=None,
        reporter=REPORTER,
    )
    weights = file_of(root, result, ArtifactKind.WEIGHTS)
    exported = ours.export(
        quick_spec(NETWORK, Action.EXPORT), model=weights, data=root / "index", out=root, reporter=REPORTER
    )
    assert exported.kpi["max_difference"] < 1e-3
    return Trained(root / "index", weights, file_of(root, exported, ArtifactKind.ONNX), result.kpi)


def test_what_is_found_is_written_with_its_masks(trained: Trained, tmp_path: Path) -> None:
    ours = load_implementation(NETWORK)
    written = {}
    for model in (trained.weights, trained.graph):
        out = tmp_path / model.suffix[1:]
        found = ours.infer(
            parse_spec(NETWORK.spec(Action.INFERENCE), {}), model=model, data=trained.data, out=out, reporter=REPORTER
        )
        written[model] = rows = json.loads(file_of(out, found, ArtifactKind.PREDICTIONS).read_bytes())
        assert rows and found.kpi["boxes"] == len(rows)
        for row in rows:
            height, width = row["segmentation"]["size"]
            mask = unpack(RunLengths(height, width, row["segmentation"]["counts"]))
            x, y, w, h = row["bbox"]
            assert mask.shape == (64, 64) and not mask[:, int(np.ceil(x + w)) :].any() and not mask[: int(y)].any()
            assert 0 < mask.sum() <= np.ceil(w + 1) * np.ceil(h + 1)
        assert len(list((out / "inference/labels").glob("*.txt"))) == 12
        drawn = sorted((out / "inference/overlays").glob("*.jpg"))
        assert len(drawn) == 12
        with Image.open(drawn[0]) as picture:
            red, green, blue = np.asarray(picture).astype(int).transpose(2, 0, 1)
        # The photographs and the ink are pale; a mask is not.
        assert (np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).max() > 60
    by_weights, by_graph = written.values()
    assert [row["category_id"] for row in by_weights] == [row["category_id"] for row in by_graph]


@pytest.mark.parametrize(("precision", "agreement"), [("fp16", 0.95), ("int8", 0.8)])
def test_engines_of_lower_precision_find_the_same(
    trained: Trained, tmp_path: Path, precision: str, agreement: float
) -> None:
    ours = load_implementation(NETWORK)
    asked = parse_spec(NETWORK.spec(Action.GEN_TRT_ENGINE), {"data_type": precision, "backend": "onnxruntime"})
    built = ours.build_engine(asked, model=trained.graph, calibration=trained.data, out=tmp_path, reporter=REPORTER)
    assert built.kpi["agreement"] > agreement and "objects" in built.message
    engine = file_of(tmp_path, built, ArtifactKind.ENGINE)
    asked = parse_spec(NETWORK.spec(Action.EVALUATE), {})
    found = ours.evaluate(asked, model=engine, data=trained.data, out=tmp_path, reporter=REPORTER)
    assert found.kpi["mask_mAP50"] > trained.kpi["mask_mAP50"] - 0.1
    assert {"AP", "AP50", "mask_AP", "mask_AP50", "objects"} <= found.categorical.keys()


def test_data_without_masks_names_the_first_box(trained: Trained, tmp_path: Path) -> None:
    digit_scenes().write_scenes(tmp_path / "raw", "kitti", pictures=2, size=(64, 64))
    build_box_index(tmp_path / "raw", "kitti", tmp_path / "boxes")
    ours = load_implementation(NETWORK)
    for role, roles in (("training", (tmp_path / "boxes", None)), ("evaluation", (trained.data, tmp_path / "boxes"))):
        with pytest.raises(DatasetError, match=rf"The {role} data set has objects without a mask: the first is box 1 "):
            ours.train(
                quick_spec(NETWORK, Action.TRAIN, 1),
                train_data=roles[0],
                eval_data=roles[1],
                weights=None,
                out=tmp_path / "out",
                reporter=REPORTER,
            )
    with pytest.raises(DatasetError, match="The evaluation data set has objects without a mask"):
        ours.evaluate(
            parse_spec(NETWORK.spec(Action.EVALUATE), {}),
            model=trained.weights,
            data=tmp_path / "boxes",
            out=tmp_path / "out",
            reporter=REPORTER,
        )


def test_a_picture_without_objects_has_no_mask_to_learn(few: Few) -> None:
    """Boxes of which all is hidden teach nothing about masks, and break nothing."""
    torch.manual_seed(0)
    detector = small().train()
    target = few.targets[0]
    hidden = replace(target, is_ignored=torch.ones(len(target), dtype=torch.bool))
    detector(few.inputs_BCHW[:1], [hidden]).backward()
    logits = detector.roi_heads.mask_predictor.mask_fcn_logits
    assert logits.weight.grad is not None and not logits.weight.grad.any()


def test_proposals_are_cut_out_of_the_map_of_their_size() -> None:
    detector = small()
    maps = detector._maps(torch.randn(2, 3, SIZE, SIZE))
    sides = torch.tensor([5.0, 60.0, 111.0, 113.0, 300.0, 500.0, 20.0])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    pool = detector.roi_heads.mask_roi_pool
    assert pool._level(torch.cat([boxes[:, :1], boxes], dim=1)).tolist() == [0, 0, 0, 1, 2, 3, 0]
    cut = pool.cut(list(maps.values()), rois(torch.stack([boxes, boxes.flip(0)])))
    assert torch.allclose(pool(maps, [boxes, boxes.flip(0)], None), cut)
