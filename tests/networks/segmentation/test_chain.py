"""Train, prune, retrain, export, build engines and predict, on scenes of real digits."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.images import Images
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.networks.segmentation.evaluation import open_predictor
from prefect_trainyard.networks.segmentation.model import Record
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.schemas.specs import parse_spec

REPORTER = SilentReporter()

TRAINING: dict[str, dict[str, Any]] = {
    "unet": {
        "training_config": {"epochs": 10, "batch_size": 8, "learning_rate": 0.003},
        "dataset_config": {"workers": 0, "augmentation_config": {"horizontal_flip": 0.0}},
    },
    "segformer": {
        "train": {"max_iters": 100, "num_rounds": 4, "optim": {"lr": 0.002}},
        "dataset": {"batch_size": 8, "workers": 0, "augmentation": {"horizontal_flip": 0.0}},
    },
}
REACHED = {"unet": 0.75, "segformer": 0.6}

NETWORKS = list(TRAINING)


def spec(network: str, action: Action, **sections: Any) -> Any:
    return parse_spec(get_network(network).spec(action), sections)


def file_of(out: Path, result: Output, kind: ArtifactKind) -> Path:
    return out / next(a.path for a in result.artifacts if a.kind == kind)


@dataclass(frozen=True)
class Chain:
    network: str
    actions: Any
    trained: Path
    training: Output
    graph: Path
    exported: Output

    def evaluate(self, model: Path, data: Path, out: Path) -> Output:
        asked = spec(self.network, Action.EVALUATE)
        result: Output = self.actions.evaluate(asked, model=model, data=data, out=out, reporter=REPORTER)
        return result

    def engine(self, calibration: Path | None, out: Path, data_type: str) -> Output:
        asked: dict[str, Any] = {"data_type": data_type}
        if self.network != "unet":
            asked = {"gen_trt_engine": {"tensorrt": asked}}
        result: Output = self.actions.build_engine(
            spec(self.network, Action.GEN_TRT_ENGINE, **asked),
            model=self.graph,
            calibration=calibration,
            out=out,
            reporter=REPORTER,
        )
        return result


@pytest.fixture(scope="module", params=NETWORKS)
def chain(request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The models of one chain: some twenty seconds of training and export, so it runs once for each network."""
    network = request.param
    actions = load_implementation(get_network(network))
    root = tmp_path_factory.mktemp(network)
    trained = actions.train(
        spec(network, Action.TRAIN, **TRAINING[network]),
        train_data=scenes / "train",
        eval_data=scenes / "eval",
        out=root,
        weights=None,
        reporter=REPORTER,
    )
    weights = file_of(root, trained, ArtifactKind.WEIGHTS)
    exported = actions.export(
        spec(network, Action.EXPORT), model=weights, data=scenes / "eval", out=root, reporter=REPORTER
    )
    return Chain(network, actions, weights, trained, file_of(root, exported, ArtifactKind.ONNX), exported)


def test_training_finds_digits_that_it_has_not_seen(chain: Chain, scenes: Path, tmp_path: Path) -> None:
    result = chain.evaluate(chain.trained, scenes / "eval", tmp_path)
    assert result.kpi["mIoU"] >= REACHED[chain.network]
    assert set(result.kpi) == set(get_network(chain.network).metrics)
    assert result.kpi["mIoU"] == pytest.approx(chain.training.kpi["mIoU"], abs=1e-4)
    assert result.confusion is not None
    confusion = np.array(result.confusion)
    assert confusion.sum() == 10 * 64 * 64
    assert confusion.trace() / confusion.sum() == pytest.approx(result.kpi["pixel_accuracy"])
    ious = result.categorical["IoU"]
    assert list(ious) == result.classes == ["background", "zero", "one"]
    assert result.kpi["mIoU"] == pytest.approx(np.mean(list(ious.values())))
    for artifact in result.artifacts:
        with Image.open(tmp_path / artifact.path) as picture:
            assert min(picture.size) > 100


def test_the_graph_is_the_network(chain: Chain, scenes: Path) -> None:
    assert chain.exported.kpi["max_difference"] <= 1e-3
    network, graph = open_predictor(chain.trained), open_predictor(chain.graph)
    assert graph.record == network.record
    images = Images(open_index(scenes / "eval"), network.record.shape)
    for size in (1, 3, 10):
        pixels = images.pixels(range(size))
        np.testing.assert_allclose(graph.logits(pixels), network.logits(pixels), atol=1e-3)


@pytest.mark.parametrize("data_type", ["fp16", "int8"])
def test_an_engine_is_as_good_as_the_graph(chain: Chain, scenes: Path, tmp_path: Path, data_type: str) -> None:
    built = chain.engine(scenes / "train", tmp_path, data_type)
    path = file_of(tmp_path, built, ArtifactKind.ENGINE)
    assert data_type in path.name
    full = chain.evaluate(chain.graph, scenes / "eval", tmp_path / "a").kpi["mIoU"]
    assert abs(chain.evaluate(path, scenes / "eval", tmp_path / "b").kpi["mIoU"] - full) <= 0.03
    with pytest.raises(JobFailed, match="calibration"):
        chain.engine(None, tmp_path, "int8")


def test_inference_writes_masks_and_overlays_of_the_size_of_the_images(
    chain: Chain, scenes: Path, tmp_path: Path
) -> None:
    for data in ("raw", "eval"):
        out = tmp_path / data
        result = chain.actions.infer(
            spec(chain.network, Action.INFERENCE), model=chain.graph, data=scenes / data, out=out, reporter=REPORTER
        )
        assert json.loads((out / "inference/classes.json").read_text()) == {"0": "background", "1": "zero", "2": "one"}
        with (out / "inference/predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 10
        for row in rows:
            mask = Image.open(out / "inference" / row["mask"])
            assert mask.size == (64, 64)
            labels = np.asarray(mask)
            assert labels.max() <= 2
            assert float(row["zero"]) == pytest.approx((labels == 1).mean(), abs=1e-6)
            overlay = Image.open(out / "inference" / row["mask"].replace("masks/", "overlays/"))
            assert (overlay.size, overlay.mode) == ((64, 64), "RGB")
        written = {a.path for a in result.artifacts}
        assert len(written) == 23
        assert all((out / path).is_file() for path in written)


def test_a_pruned_unet_wins_back_what_it_lost(scenes: Path, tmp_path: Path, chain: Chain) -> None:
    if chain.network != "unet":
        assert Action.PRUNE not in get_network(chain.network).actions
        return
    pruned = chain.actions.prune(
        spec("unet", Action.PRUNE, method="ratio", pruning_ratio=0.4),
        model=chain.trained,
        data=scenes / "train",
        out=tmp_path / "prune",
        reporter=REPORTER,
    )
    assert pruned.kpi["removed_share"] >= 0.4
    weights = file_of(tmp_path / "prune", pruned, ArtifactKind.WEIGHTS)
    # Nothing is below the 0.7 of the tutorials so soon, and the chain goes on all the same.
    for threshold, words in ((0.7, "Removed nothing: no channel is below 0.7"), (0.95, "Removed ")):
        by_threshold = chain.actions.prune(
            spec("unet", Action.PRUNE, pruning_threshold=threshold),
            model=chain.trained,
            data=None,
            out=tmp_path / "threshold",
            reporter=REPORTER,
        )
        assert by_threshold.message.startswith(words)
        assert (by_threshold.kpi["removed_share"] > 0) == (threshold > 0.7)
    again = chain.actions.retrain(
        spec("unet", Action.TRAIN, **TRAINING["unet"]),
        train_data=scenes / "train",
        eval_data=scenes / "eval",
        out=tmp_path / "retrain",
        weights=weights,
        reporter=REPORTER,
    )
    assert again.parameter_count == pruned.parameter_count
    assert again.kpi["mIoU"] >= REACHED["unet"]
    exported = chain.actions.export(
        spec("unet", Action.EXPORT),
        model=file_of(tmp_path / "retrain", again, ArtifactKind.WEIGHTS),
        data=None,
        out=tmp_path,
        reporter=REPORTER,
    )
    assert exported.kpi["max_difference"] <= 1e-3


def test_masks_are_written_at_the_size_of_the_image(tmp_path: Path, chain: Chain) -> None:
    from prefect_trainyard.datasets.formats import build_index

    raw = tmp_path / "pictures"
    raw.mkdir()
    for name in ("a.jpg", "a.bmp"):
        Image.new("RGB", (50, 70), (70, 70, 70)).save(raw / name)
    build_index(raw, "raw", tmp_path / "index", type="semantic_segmentation")
    chain.actions.infer(
        spec(chain.network, Action.INFERENCE, inference={"overlays": False}),
        model=chain.trained,
        data=tmp_path / "index",
        out=tmp_path,
        reporter=REPORTER,
    )
    sizes = {p.name: Image.open(p).size for p in (tmp_path / "inference/masks").iterdir()}
    assert sizes == {"a.jpg.png": (50, 70), "a.bmp.png": (50, 70)}
    assert not (tmp_path / "inference/overlays").exists()


def test_the_record_says_what_the_logits_are(chain: Chain) -> None:
    predictor = open_predictor(chain.trained)
    record = predictor.record
    assert isinstance(record, Record)
    logits = predictor.logits(torch.zeros(2, *record.shape, dtype=torch.uint8))
    assert logits.shape == (2, *record.output_shape)
    assert record.masks.labels == {0: 0, 1: 1, 2: 2, 255: 255}
