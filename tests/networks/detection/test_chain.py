"""Train, retrain, predict and build engines of detectors: what the contract of all networks does not ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import timm
import torch
from box_sets import digit_scenes
from networks.detection.detector_contract import filled
from PIL import Image
from prefect_trainyard.datasets.box_formats import write_boxes
from prefect_trainyard.datasets.box_index import build_box_index
from prefect_trainyard.datasets.boxes import DONT_CARE, Box, BoxClass, BoxSet, Picture
from prefect_trainyard.networks.detection.model import NETWORKS, Record, build, load_model
from prefect_trainyard.networks.detection.pictures import Target
from prefect_trainyard.networks.detection.plans import recipe_of
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import DatasetError, JobFailed, SpecError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.schemas.specs import parse_spec
from prefect_trainyard.testing.networks import quick_spec
from safetensors.torch import save_file

REPORTER = SilentReporter()


def ssd_spec(action: Action = Action.TRAIN, **sections: Any) -> Any:
    """Return the quick spec of ssd with other values in some sections."""
    network = get_network("ssd")
    quick = dict(network.quick.get(action, {}))
    for name, values in sections.items():
        quick[name] = {**quick.get(name, {}), **values} if isinstance(values, dict) else values
    return parse_spec(network.spec(action), quick)


def actions(network: str = "ssd") -> Any:
    return load_implementation(get_network(network))


def file_of(out: Path, result: Output, kind: ArtifactKind) -> Path:
    found = result.artifact(kind, result.best_epoch) or result.artifact(kind)
    assert found is not None
    return out / found.path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of 12 scenes of 64 x 64: `labelled`, and `raw`, of which one picture is in a folder of its own."""
    root = tmp_path_factory.mktemp("data")
    digit_scenes().write_scenes(root / "kitti", "kitti", pictures=12, size=(64, 64))
    build_box_index(root / "kitti", "kitti", root / "labelled")
    for number, path in enumerate(sorted((root / "kitti/images").iterdir())[:3]):
        target = root / "pictures" / ("night" if number else ".") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((100, 50)).save(target)
    build_box_index(root / "pictures", "raw", root / "raw")
    return root


@dataclass(frozen=True)
class Trained:
    weights: Path
    graph: Path
    kpi: dict[str, float]


@pytest.fixture(scope="module", params=["ssd", "faster_rcnn"])
def trained(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A detector that knows the scenes by heart, and its graph."""
    torch.set_num_threads(1)
    out, network = tmp_path_factory.mktemp(request.param), get_network(request.param)
    labelled = data / "labelled"
    ours = load_implementation(network)
    training = ours.train(
        quick_spec(network, Action.TRAIN, 25),
        train_data=labelled,
        eval_data=labelled,
        out=out,
        weights=None,
        reporter=REPORTER,
    )
    weights = file_of(out, training, ArtifactKind.WEIGHTS)
    exported = ours.export(quick_spec(network, Action.EXPORT), model=weights, data=labelled, out=out, reporter=REPORTER)
    return Trained(weights, file_of(out, exported, ArtifactKind.ONNX), training.kpi)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_of_lower_precision_find_the_same(trained: Trained, data: Path, tmp_path: Path, precision: str) -> None:
    ours = actions()
    asked = ssd_spec(Action.GEN_TRT_ENGINE, data_type=precision)
    built = ours.build_engine(
        asked, model=trained.graph, calibration=data / "labelled", out=tmp_path, reporter=REPORTER
    )
    assert built.kpi["agreement"] > 0.9 and "objects" in built.message
    found = ours.evaluate(
        ssd_spec(Action.EVALUATE),
        model=file_of(tmp_path, built, ArtifactKind.ENGINE),
        data=data / "labelled",
        out=tmp_path,
        reporter=REPORTER,
    )
    assert found.kpi["mAP50"] > trained.kpi["mAP50"] - 0.1


def test_what_is_found_is_written_for_kitti_and_coco(trained: Trained, data: Path, tmp_path: Path) -> None:
    found = actions().infer(
        ssd_spec(Action.INFERENCE), model=trained.weights, data=data / "raw", out=tmp_path, reporter=REPORTER
    )
    results = json.loads(file_of(tmp_path, found, ArtifactKind.PREDICTIONS).read_bytes())
    assert len(results) == found.kpi["boxes"] > 0
    folder = tmp_path / "inference"
    written = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("l*/**/*.txt"))]
    assert len(written) == 3 and "night/1.txt" in " ".join(written)
    for number, name in enumerate(("0", "night/1", "night/2")):
        (labels,) = folder.glob(f"l*/{name}.txt")
        lines = [line.split() for line in labels.read_text().splitlines()]
        rows = [row for row in results if row["file_name"].endswith(f"{name}.png")]
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            x1, y1, x2, y2 = map(float, line[4:8])
            x, y, width, height = row["bbox"]
            assert (line[0], row["image_id"]) == (row["category_name"], number + 1) and len(line) == 16
            assert [x1, y1, x2, y2] == pytest.approx([x, y, x + width, y + height], abs=0.02)
            assert 0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 50 and float(line[15]) == row["score"] >= 0.3
        with Image.open(folder / f"overlays/{name}.jpg") as drawn:
            assert drawn.size == (100, 50)


def test_sure_boxes_alone(trained: Trained, data: Path, tmp_path: Path) -> None:
    asked = ssd_spec(Action.INFERENCE, nms_config={"confidence_threshold": 0.999}, inference_config={"overlays": False})
    found = actions().infer(asked, model=trained.weights, data=data / "raw", out=tmp_path, reporter=REPORTER)
    assert found.kpi["boxes"] == 0 and not (tmp_path / "inference/overlays").exists()
    assert found.message == "Found 0 objects in 3 pictures."


def test_a_retrain_needs_the_classes_of_its_parent(
    trained: Trained, make_index: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_index("other", [Box(x1=5, y1=5, x2=40, y2=40, label=0)], classes=("car",))
    with pytest.raises(DatasetError, match=r"training data set has classes .*: car\..*") as refused:
        actions().retrain(
            ssd_spec(), train_data=other, eval_data=None, weights=trained.weights, out=tmp_path, reporter=REPORTER
        )
    assert "digit_3" in refused.value.hint


def test_base_weights_give_all_but_the_heads_to_other_classes(
    data: Path, make_index: Callable[..., Path], make_recorder: Any, tmp_path: Path
) -> None:
    def train(data: Path, weights: Path | None, out: Path) -> tuple[Path, list[str]]:
        recorder = make_recorder()
        spec = ssd_spec(training_config={"num_epochs": 1})
        result = actions().train(spec, train_data=data, eval_data=None, weights=weights, out=out, reporter=recorder)
        return file_of(out, result, ArtifactKind.WEIGHTS), recorder.lines

    base, _ = train(data / "labelled", None, tmp_path / "base")
    pruned = actions().prune(
        quick_spec(get_network("ssd"), Action.PRUNE), model=base, data=None, out=tmp_path, reporter=REPORTER
    )
    base = file_of(tmp_path, pruned, ArtifactKind.WEIGHTS)
    same, said = train(data / "labelled", base, tmp_path / "same")
    assert any("with the heads" in line for line in said)
    assert load_model(same)[0].head.state_dict().keys() == load_model(base)[0].head.state_dict().keys()
    other = make_index("other", *[[Box(x1=5, y1=5, x2=40, y2=40, label=0)]] * 4, classes=("car",))
    found, said = train(other, base, tmp_path / "other")
    assert any("without the heads" in line for line in said)
    model, record = load_model(found)
    assert record.classes == ["car"]
    shapes = {name: tensor.shape for name, tensor in load_model(base)[0].backbone.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in model.backbone.state_dict().items()}


def test_base_weights_of_timm_are_those_of_the_backbone(data: Path, make_recorder: Any, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), plain)
    recorder = make_recorder()
    spec = ssd_spec(training_config={"num_epochs": 1})
    actions().train(spec, train_data=data / "labelled", eval_data=None, weights=plain, out=tmp_path, reporter=recorder)
    assert any("tensors taken over" in line for line in recorder.lines)
    with pytest.raises(JobFailed, match="do not belong to resnet18"):
        actions().train(
            ssd_spec(ssd_config={"arch": "resnet"}),
            train_data=data / "labelled",
            eval_data=None,
            weights=plain,
            out=tmp_path / "other",
            reporter=REPORTER,
        )


@pytest.mark.parametrize(
    ("section", "values", "problem"),
    [
        ("ssd_config", {"arch": "resnett18"}, "timm has no model 'resnett18'"),
        ("ssd_config", {"arch": "test_vit"}, "."),
        ("ssd_config", {"scales": [0.1, 0.2]}, "ssd_config.scales has 2 numbers, .* 4 feature maps"),
    ],
)
def test_what_cannot_be_built_is_told(
    data: Path, tmp_path: Path, section: str, values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        actions().train(
            ssd_spec(**{section: values}),
            train_data=data / "labelled",
            eval_data=None,
            weights=None,
            out=tmp_path,
            reporter=REPORTER,
        )


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"ssd_config": {"arch": "googlenet"}}, "use inception_v3"),
        ({"ssd_config": {"scales": [0.5, 0.1]}}, "scales rise"),
        ({"ssd_config": {"scales": "[0.1, many]"}}, "'many' is no number"),
        ({"ssd_config": {"variances": [0.1]}}, "ssd_config.variances"),
        ({"augmentation_config": {"output_width": 96}}, "both output_width and output_height"),
        ({"augmentation_config": {"output_width": 100, "output_height": 96}}, "multiple of 32"),
        ({"nms_config": {"clustering_iou_threshold": 0}}, "nms_config.clustering_iou_threshold"),
        (
            {"training_config": {"learning_rate": {"soft_start_annealing_schedule": {"max_learning_rate": 1e-6}}}},
            "min_learning_rate is at most",
        ),
    ],
)
def test_a_wrong_spec_is_refused(sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_spec(get_network("ssd").spec(Action.TRAIN), sections)


def test_lists_may_be_text_with_fractions() -> None:
    spec = parse_spec(
        get_network("ssd").spec(Action.TRAIN), {"ssd_config": {"aspect_ratios_global": "[1.0, 2.0, 1.0/2.0]"}}
    )
    assert recipe_of(spec).options["aspect_ratios_global"] == [1.0, 2.0, 0.5]


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that indexes noise of 64 x 64 with the given boxes."""

    def make(name: str, *pictures: list[Box], classes: tuple[str, ...] = ("digit_3", "digit_5", "digit_8")) -> Path:
        root = tmp_path / f"{name}-source"
        root.mkdir()
        made = []
        for number, boxes in enumerate(pictures):
            path = PurePosixPath(f"{number}.png")
            noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(root / path)
            made.append(Picture(path=path, name=path, width=64, height=64, boxes=tuple(boxes)))
        written = tmp_path / f"{name}-raw"
        written.mkdir()
        names = tuple(BoxClass(name=one) for one in classes)
        write_boxes(BoxSet(root=root, pictures=tuple(made), classes=names), "coco", written)
        build_box_index(written, "coco", tmp_path / name)
        return tmp_path / name

    return make


OBJECT = Box(x1=5, y1=5, x2=40, y2=40, label=0)
CROWD = Box(x1=20, y1=20, x2=64, y2=64, label=1, crowd=True)


def test_pictures_without_boxes_are_learned_as_background(make_index: Callable[..., Path], tmp_path: Path) -> None:
    mixed = make_index("mixed", [OBJECT], [], [], [OBJECT, CROWD])
    trained = actions().train(
        ssd_spec(training_config={"num_epochs": 2}),
        train_data=mixed,
        eval_data=mixed,
        weights=None,
        out=tmp_path / "out",
        reporter=REPORTER,
    )
    assert np.isfinite(trained.kpi["loss"])


@pytest.mark.parametrize("boxes", [[], [CROWD]])
def test_a_set_without_objects_is_refused(make_index: Callable[..., Path], tmp_path: Path, boxes: list[Box]) -> None:
    empty = make_index("empty", boxes, [])
    for role, roles in (("training", (empty, None)), ("evaluation", (make_index("some", [OBJECT]), empty))):
        with pytest.raises(DatasetError, match=f"The {role} data set has no"):
            actions().train(
                ssd_spec(), train_data=roles[0], eval_data=roles[1], weights=None, out=tmp_path, reporter=REPORTER
            )


def detector(network: str) -> tuple[Any, Record]:
    recipe = recipe_of(quick_spec(get_network(network), Action.TRAIN))
    torch.manual_seed(0)
    # Training finds the anchors of YOLO networks in the data.
    anchors = {name: [[8.0, 8.0], [16.0, 24.0]] for name in recipe.options if name.endswith("_anchor_shape")}
    return build(
        Record(
            network=network,
            backbone=recipe.backbone,
            options={**recipe.options, **anchors},
            classes=["a", "b"],
            channels=3,
            width=64,
            height=64,
            mean=[0.5] * 3,
            std=[0.5] * 3,
        )
    )


def target(*boxes: tuple[float, ...], labels: list[int], ignored: list[bool]) -> Target:
    edges = torch.tensor(boxes).reshape(-1, 4)
    return Target(edges, torch.tensor(labels, dtype=torch.int64), torch.tensor(ignored).bool(), filled(edges))


WHOLE = (0.0, 0.0, 64.0, 64.0)


@pytest.mark.parametrize("network", ["ssd", "dssd", "retinanet"])
def test_nothing_is_learned_in_regions_to_ignore(network: str) -> None:
    model, record = detector(network)
    inputs = torch.randn(1, *record.shape)

    def loss(*boxes: tuple[float, ...], labels: list[int], ignored: list[bool]) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            found = model(inputs, [target(*boxes, labels=labels, ignored=ignored)])
        assert found.shape == () and torch.isfinite(found)
        return float(found)

    # Default boxes that reach far out of the picture are not in it, and say so.
    nothing = loss(labels=[], ignored=[])
    assert loss(WHOLE, labels=[DONT_CARE], ignored=[True]) < 0.9 * nothing
    assert loss(WHOLE, labels=[1], ignored=[True]) < 0.9 * nothing
    assert loss(WHOLE, labels=[1], ignored=[False]) != pytest.approx(loss(WHOLE, labels=[1], ignored=[True]))


def test_both_stages_learn_nothing_in_regions_to_ignore(monkeypatch: pytest.MonkeyPatch) -> None:
    model, record = detector("faster_rcnn")
    left = (0.0, 0.0, 32.0, 64.0)
    anchors = model.anchors_N4
    wanted = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "ignored": torch.tensor([left])}
    (labels,), _ = model.rpn.assign_targets_to_anchors([anchors], [wanted])
    is_left = (anchors[:, 2] <= 32) & (anchors[:, 1] >= 0) & (anchors[:, 3] <= 64) & (anchors[:, 0] >= 0)
    assert is_left.any() and (labels[is_left] == -1).all()
    assert (labels[anchors[:, 0] >= 32] == 0).all()

    seen: list[torch.Tensor] = []
    learn = model.roi_heads.forward
    monkeypatch.setattr(
        model.roi_heads, "forward", lambda maps, boxes, *rest: seen.extend(boxes) or learn(maps, boxes, *rest)
    )
    inputs = torch.randn(1, *record.shape)
    model(inputs, [target(left, labels=[DONT_CARE], ignored=[True])])
    assert len(seen[0]) and (seen[0][:, 2] > 32).all()
    for ignored in ([True], [False]):
        assert torch.isfinite(model(inputs, [target(WHOLE, labels=[1], ignored=ignored)]))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_in_evaluation_leaves_the_network_as_it_was(network: str) -> None:
    model, record = detector(network)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        model(torch.randn(2, *record.shape), [target(WHOLE, labels=[0], ignored=[False])] * 2)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_is_a_number_in_half_precision(network: str) -> None:
    model, record = detector(network)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randn(2, *record.shape), [target(WHOLE, labels=[0], ignored=[False])] * 2)
    loss.backward()
    assert torch.isfinite(loss) and loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_two_processes_measure_all_pictures(data: Path, tmp_path: Path) -> None:
    spec = ssd_spec(gpus=2, training_config={"num_epochs": 1})
    found = actions().train(
        spec,
        train_data=data / "labelled",
        eval_data=data / "labelled",
        weights=None,
        out=tmp_path,
        reporter=REPORTER,
    )
    measured = actions().evaluate(
        ssd_spec(Action.EVALUATE),
        model=file_of(tmp_path, found, ArtifactKind.WEIGHTS),
        data=data / "labelled",
        out=tmp_path,
        reporter=REPORTER,
    )
    assert found.kpi["mAP50"] == pytest.approx(measured.kpi["mAP50"], abs=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_there_are_as_many_candidates_for_every_picture(network: str) -> None:
    model, record = detector(network)
    with torch.no_grad():
        boxes, scores, *_ = model(torch.randn(3, *record.shape))
    assert boxes.shape == (3, record.candidates, 4) and scores.shape == (3, record.candidates, 2)
    assert scores.min() >= 0 and scores.max() <= 1
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
