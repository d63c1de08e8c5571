"""Train, prune, retrain, export, build engines and predict, on real digits and with the bounds that hold for them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.classification.actions import CLASSIFICATION
from prefect_trainyard.networks.classification.predictors import open_predictor
from prefect_trainyard.networks.images import Images
from prefect_trainyard.networks.onnx_tools import export_graph, save_graph
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.networks.tensorrt_engine import why_unavailable
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import JobFailed, MissingFeature
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.schemas.specs import parse_spec

REPORTER = SilentReporter()


def spec(action: Action, **sections: Any) -> Any:
    return parse_spec(get_network("classification_pyt").spec(action), sections)


def training(epochs: int) -> Any:
    return spec(
        Action.TRAIN,
        model={"backbone": {"type": "resnet18"}},
        dataset={
            "batch_size": 64,
            "augmentation": {"horizontal_flip": 0.0, "rotation": 10.0, "translation": 0.08},
        },
        train={
            "train_config": {
                "runner": {"max_epochs": epochs},
                "optimizer": {"lr": 0.002},
                "label_smoothing": 0.1,
            }
        },
    )


def file_of(out: Path, result: Output, kind: ArtifactKind) -> Path:
    return out / next(a.path for a in result.artifacts if a.kind == kind)


def evaluate(model: Path, data: Path, out: Path) -> Output:
    return CLASSIFICATION.evaluate(spec(Action.EVALUATE), model=model, data=data, out=out, reporter=REPORTER)


def engine(graph: Path, calibration: Path | None, out: Path, data_type: str, backend: str = "auto") -> Output:
    return CLASSIFICATION.build_engine(
        spec(Action.GEN_TRT_ENGINE, gen_trt_engine={"backend": backend, "tensorrt": {"data_type": data_type}}),
        model=graph,
        calibration=calibration,
        out=out,
        reporter=REPORTER,
    )


@dataclass(frozen=True)
class Chain:
    trained: Path
    pruned: Output
    retrained: Path
    graph: Path
    exported: Output


@pytest.fixture(scope="module")
def chain(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The models of one chain: half a minute of training on a quiet machine, so it runs once."""
    torch.set_num_threads(2)
    root = tmp_path_factory.mktemp("chain")
    data = {"train_data": digits / "train", "eval_data": digits / "eval", "reporter": REPORTER}
    first = CLASSIFICATION.train(training(8), out=root / "train", weights=None, **data)
    trained = file_of(root / "train", first, ArtifactKind.WEIGHTS)
    pruned = CLASSIFICATION.prune(
        spec(Action.PRUNE), model=trained, data=digits / "eval", out=root / "prune", reporter=REPORTER
    )
    weights = file_of(root / "prune", pruned, ArtifactKind.WEIGHTS)
    second = CLASSIFICATION.retrain(training(5), out=root / "retrain", weights=weights, **data)
    retrained = file_of(root / "retrain", second, ArtifactKind.WEIGHTS)
    exported = CLASSIFICATION.export(
        spec(Action.EXPORT), model=retrained, data=digits / "test", out=root / "export", reporter=REPORTER
    )
    graph = file_of(root / "export", exported, ArtifactKind.ONNX)
    return Chain(trained, pruned, retrained, graph, exported)


def test_training_learns_the_digits(chain: Chain, digits: Path, tmp_path: Path) -> None:
    result = evaluate(chain.trained, digits / "test", tmp_path)
    assert result.kpi["accuracy_top-1"] >= 0.97
    assert set(result.kpi) == set(get_network("classification_pyt").metrics)
    assert result.confusion is not None
    confusion = np.array(result.confusion)
    assert confusion.sum() == len(open_index(digits / "test"))
    assert confusion.trace() / confusion.sum() == result.kpi["accuracy_top-1"]
    assert set(result.categorical["f1"]) == set(result.classes) == set("0123456789")
    for artifact in result.artifacts:
        with Image.open(tmp_path / artifact.path) as picture:
            assert min(picture.size) > 400


def test_pruning_removes_a_third_and_retraining_wins_the_accuracy_back(
    chain: Chain, digits: Path, tmp_path: Path
) -> None:
    assert chain.pruned.kpi["removed_share"] >= 0.4
    assert chain.pruned.kpi["accuracy_top-1"] < 0.97
    result = evaluate(chain.retrained, digits / "test", tmp_path)
    assert result.kpi["accuracy_top-1"] >= 0.96
    assert result.parameter_count == chain.pruned.parameter_count


def test_the_graph_is_the_network(chain: Chain, digits: Path) -> None:
    assert chain.exported.kpi["max_difference"] <= 1e-3
    network, graph = open_predictor(chain.retrained), open_predictor(chain.graph)
    assert graph.record == network.record
    images = Images(open_index(digits / "test"), network.record.shape)
    for size in (1, 7, 64):
        pixels = images.pixels(range(size))
        expected, found = network.logits(pixels), graph.logits(pixels)
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("data_type", ["fp32", "fp16", "int8"])
def test_an_engine_is_as_good_as_the_graph(chain: Chain, digits: Path, tmp_path: Path, data_type: str) -> None:
    built = engine(chain.graph, digits / "train", tmp_path, data_type)
    path = file_of(tmp_path, built, ArtifactKind.ENGINE)
    assert data_type in path.name
    if why_unavailable() is not None:
        assert path.name == f"model.{data_type}.onnxruntime.onnx"
        assert "ONNX Runtime instead of TensorRT" in built.message
    full = evaluate(chain.graph, digits / "test", tmp_path / "a").kpi["accuracy_top-1"]
    assert abs(evaluate(path, digits / "test", tmp_path / "b").kpi["accuracy_top-1"] - full) <= 0.01
    if data_type == "int8":
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
        assert path.stat().st_size < 0.35 * chain.graph.stat().st_size


def test_entropy_calibration_builds_too(chain: Chain, digits: Path, tmp_path: Path) -> None:
    options = {"data_type": "int8", "calibration": {"method": "entropy", "images": 32}}
    built = CLASSIFICATION.build_engine(
        spec(Action.GEN_TRT_ENGINE, gen_trt_engine={"backend": "onnxruntime", "tensorrt": options}),
        model=chain.graph,
        calibration=digits / "train",
        out=tmp_path,
        reporter=REPORTER,
    )
    assert built.kpi["agreement"] > 0.9


def test_predictions_name_every_raw_image(chain: Chain, digits: Path, tmp_path: Path) -> None:
    result = CLASSIFICATION.infer(
        spec(Action.INFERENCE, inference={"top_k": 3}),
        model=chain.retrained,
        data=digits / "raw",
        out=tmp_path,
        reporter=REPORTER,
    )
    raw, labelled = open_index(digits / "raw"), open_index(digits / "test")
    with file_of(tmp_path, result, ArtifactKind.PREDICTIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [raw.path(i) for i in range(len(raw))]
    assert list(rows[0]) == ["path", "label", "confidence", "label_2", "confidence_2", "label_3", "confidence_3"]
    assert all(1 >= float(row["confidence"]) >= float(row["confidence_2"]) for row in rows)
    truth = {Path(labelled.path(i)).name: labelled.classes[labelled.labels[i]] for i in range(len(labelled))}
    right = sum(truth[Path(row["path"]).name] == row["label"] for row in rows)
    assert right / len(rows) >= 0.96


def test_a_graph_with_a_fixed_batch_takes_any_number_of_images(chain: Chain, digits: Path, tmp_path: Path) -> None:
    result = CLASSIFICATION.export(
        spec(Action.EXPORT, export={"batch_size": 4}),
        model=chain.retrained,
        data=digits / "few",
        out=tmp_path,
        reporter=REPORTER,
    )
    graph = file_of(tmp_path, result, ArtifactKind.ONNX)
    assert open_predictor(graph).logits(torch.zeros(6, 3, 32, 32, dtype=torch.uint8)).shape == (6, 10)
    built = engine(graph, digits / "few", tmp_path, "int8", "onnxruntime")
    assert built.kpi["agreement"] > 0.9


def test_a_graph_that_is_not_the_network_fails_the_export(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_trainyard.networks import exporting

    def export_another(model: torch.nn.Module, *arguments: Any, **options: Any) -> onnx.ModelProto:
        with torch.no_grad():
            model.get_submodule("fc").bias[3] += 0.01
            graph = export_graph(model, *arguments, **options)
            model.get_submodule("fc").bias[3] -= 0.01
        return graph

    monkeypatch.setattr(exporting, "export_graph", export_another)
    with pytest.raises(JobFailed, match="outputs differ"):
        CLASSIFICATION.export(spec(Action.EXPORT), model=chain.trained, data=None, out=tmp_path, reporter=REPORTER)
    assert not list(tmp_path.rglob("*.onnx"))


def test_bad_input_is_named(chain: Chain, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="calibration"):
        engine(chain.graph, None, tmp_path, "int8")
    with pytest.raises(JobFailed, match="ONNX graph"):
        engine(chain.trained, digits / "few", tmp_path, "fp32")
    (tmp_path / "broken.onnx").write_bytes(chain.graph.read_bytes()[:5000])
    with pytest.raises(JobFailed, match="broken"):
        engine(tmp_path / "broken.onnx", None, tmp_path, "fp32")
    with pytest.raises(JobFailed, match="broken"):
        evaluate(tmp_path / "broken.onnx", digits / "few", tmp_path)
    foreign = onnx.load(chain.graph)
    del foreign.metadata_props[:]
    save_graph(tmp_path / "foreign.onnx", foreign, {})
    with pytest.raises(JobFailed, match="foreign"):
        evaluate(tmp_path / "foreign.onnx", digits / "few", tmp_path)
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(JobFailed, match="no model"):
        evaluate(tmp_path / "model.txt", digits / "few", tmp_path)
    with pytest.raises(JobFailed, match="no more can go"):
        CLASSIFICATION.prune(
            spec(Action.PRUNE, prune={"pruning_ratio": 0.9, "min_channels": 512}),
            model=chain.trained,
            data=None,
            out=tmp_path,
            reporter=REPORTER,
        )


@pytest.mark.skipif(why_unavailable() is None, reason="TensorRT is here")
def test_tensorrt_that_is_asked_for_and_missing_is_named_with_its_extra(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(MissingFeature, match=r"prefect-trainyard\[tensorrt\]"):
        engine(chain.graph, None, tmp_path, "fp32", "tensorrt")


@pytest.mark.gpu
@pytest.mark.skipif(why_unavailable() is not None, reason=f"no TensorRT: {why_unavailable()}")
@pytest.mark.parametrize("data_type", ["fp32", "fp16", "int8"])
def test_a_tensorrt_engine_is_as_good_as_the_graph(chain: Chain, digits: Path, tmp_path: Path, data_type: str) -> None:
    built = engine(chain.graph, digits / "train", tmp_path, data_type, "tensorrt")
    path = file_of(tmp_path, built, ArtifactKind.ENGINE)
    full = evaluate(chain.graph, digits / "test", tmp_path / "a").kpi["accuracy_top-1"]
    assert abs(evaluate(path, digits / "test", tmp_path / "b").kpi["accuracy_top-1"] - full) <= 0.01


@pytest.mark.slow
def test_a_transformer_is_trained_and_exported_but_not_pruned(digits: Path, tmp_path: Path) -> None:
    options = training(1).model_dump(mode="json")
    options["model"]["backbone"]["type"] = "vit_tiny_patch16_224"
    result = CLASSIFICATION.train(
        spec(Action.TRAIN, **options),
        train_data=digits / "few",
        eval_data=None,
        out=tmp_path,
        weights=None,
        reporter=REPORTER,
    )
    weights = file_of(tmp_path, result, ArtifactKind.WEIGHTS)
    exported = CLASSIFICATION.export(
        spec(Action.EXPORT), model=weights, data=digits / "few", out=tmp_path, reporter=REPORTER
    )
    assert exported.kpi["max_difference"] < 1e-3
    with pytest.raises(JobFailed, match="cannot be pruned"):
        CLASSIFICATION.prune(spec(Action.PRUNE), model=weights, data=None, out=tmp_path, reporter=REPORTER)
