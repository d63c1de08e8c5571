from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
from prefect_trainyard.networks.registry import get_network, load_implementation, networks, register
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import InvalidInput, SpecError
from prefect_trainyard.schemas.specs import leaves, parse_spec, spec_schema

NETWORKS = [network.name for network in networks()]


def test_knowing_the_networks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from prefect_trainyard.networks.registry import networks; networks(); "
        "print([m for m in ('torch', 'timm', 'onnx', 'prefect', 'mlflow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_unknown_network_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidInput, match="classification_pyt"):
        get_network("alexnet_9000")


def test_a_second_network_of_a_name_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        register(replace(get_network("classification_pyt"), family="other"))


def test_a_network_reads_all_its_types_of_data() -> None:
    assert list(get_network("ssd").data) == ["object_detection"]
    assert list(get_network("mal").data) == ["instance_segmentation", "object_detection"]
    assert "kitti" not in get_network("mal").data["instance_segmentation"]


@pytest.mark.parametrize("wrong", [{"epochs_parameter": "train.epochs"}, {"metric_parameter": "train.metric"}])
def test_a_record_that_names_no_parameter_of_its_spec_is_an_error(wrong: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match=next(iter(wrong.values()))):
        register(replace(get_network("classification_pyt"), name="other", **wrong))
    assert "other" not in [network.name for network in networks()]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_can_set_the_epochs_and_the_metric_of_every_network(name: str) -> None:
    network = get_network(name)
    assert network.training_metrics[network.key_metric] == network.maximize
    parameters = dict(leaves(network.spec(Action.TRAIN)))
    assert parameters[network.epochs_parameter].annotation is int
    if network.metric_parameter is not None:
        assert set(get_args(parameters[network.metric_parameter].annotation)) == set(network.training_metrics)


def test_an_action_that_the_network_lacks_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dataset_convert"):
        get_network("classification_pyt").spec(Action.DATASET_CONVERT)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_default_spec_is_valid_and_survives_a_shell(name: str) -> None:
    network = get_network(name)
    for action in network.actions:
        schema = spec_schema(network.spec(action))
        text = json.dumps(schema["default"])
        # why: clients pass specs to a shell in single quotes.
        assert "'" not in text
        assert len(text) < 128 * 1024
        parsed = parse_spec(network.spec(action), json.loads(text))
        assert parsed.model_dump(mode="json") == schema["default"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_implementation_can_do_what_the_record_says(name: str) -> None:
    network = get_network(name)
    implementation = load_implementation(network)
    methods = {Action.GEN_TRT_ENGINE: "build_engine", Action.INFERENCE: "infer"}
    for action in network.actions:
        assert callable(getattr(implementation, methods.get(action, str(action))))


@pytest.mark.parametrize(
    ("action", "wrong", "path"),
    [
        ("train", {"train": {"train_config": {"runner": {"max_epochs": "40"}}}}, "max_epochs"),
        ("train", {"train": {"train_config": {"runner": {"max_epochs": 0}}}}, "max_epochs"),
        ("train", {"train": {"train_config": {"optimizer": {"type": "lion"}}}}, "optimizer.type"),
        ("train", {"train": {"train_config": {"optimizer": {"lr": float("nan")}}}}, "optimizer.lr"),
        ("train", {"model": {"backbone": {"pretrained": True}}}, "base experiment"),
        ("train", {"model": {"backbone": {"type": "../../etc/passwd"}}}, "backbone.type"),
        ("train", {"model": {"input_width": 64}}, "input_height"),
        ("train", {"dataset": {"std": [0.2, 0.0, 0.2]}}, "above 0"),
        ("train", {"dataset": {"mean": [0.5, 0.5]}}, "channels"),
        ("train", {"dataset": {"class_weighting": "explicit"}}, "class_weights"),
        ("train", {"train": {"train_config": {"lr_config": {"step_epochs": [5, 3]}}}}, "rising"),
        ("train", {"prune": {"pruning_ratio": 0.5}}, "prune"),
        ("export", {"export": {"batch_size": 0}}, "batch_size"),
        ("gen_trt_engine", {"gen_trt_engine": {"tensorrt": {"data_type": "int4"}}}, "data_type"),
        ("gen_trt_engine", {"gen_trt_engine": {"tensorrt": {"max_batch_size": 4}}}, "opt_batch_size"),
        ("prune", {"prune": {"pruning_ratio": 1.0}}, "pruning_ratio"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(action: str, wrong: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError, match=path):
        parse_spec(get_network("classification_pyt").spec(Action(action)), wrong)


def test_precision_of_an_engine_may_be_written_in_capitals() -> None:
    spec = parse_spec(
        get_network("classification_pyt").spec(Action.GEN_TRT_ENGINE),
        {"gen_trt_engine": {"tensorrt": {"data_type": "FP16"}}, "gpus": 1},
    )
    assert spec.model_dump()["gen_trt_engine"]["tensorrt"]["data_type"] == "fp16"
