"""Every registered network passes the contract, with data of its type, and has the keys that notebooks index into."""

from __future__ import annotations

from typing import Any

import pytest
from networks.contract_data import CONTRACT_DATA, OF_NETWORKS
from prefect_trainyard.networks.registry import Network, get_network, networks
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.specs import spec_schema
from prefect_trainyard.testing import ContractData, NetworkContract


class TestEveryNetwork(NetworkContract):
    @pytest.fixture(scope="class", params=[network.name for network in networks()])
    @classmethod
    def network(cls, request: pytest.FixtureRequest) -> Network:
        return get_network(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, network: Network, tmp_path_factory: pytest.TempPathFactory) -> ContractData:
        kind = network.dataset_type, network.dataset_formats[0]
        assert kind in CONTRACT_DATA, f"contract_data.py has no data for {network.name}: {kind}"
        return OF_NETWORKS.get(network.name, CONTRACT_DATA[kind])(tmp_path_factory.mktemp("data"))


#: What notebooks read or write in the default specs; None where only the section has to be there.
NOTEBOOK_KEYS: list[tuple[str, Action, str, Any]] = [
    ("classification_pyt", Action.TRAIN, "train.train_config.runner.max_epochs", 40),
    ("classification_pyt", Action.TRAIN, "train.num_gpus", 1),
    ("classification_pyt", Action.GEN_TRT_ENGINE, "gen_trt_engine.tensorrt.data_type", "fp32"),
    ("classification_tf2", Action.TRAIN, "train.num_epochs", 80),
    ("classification_tf2", Action.TRAIN, "gpus", 1),
    ("classification_tf2", Action.PRUNE, "prune.byom_model_path", ""),
    ("classification_tf2", Action.GEN_TRT_ENGINE, "gen_trt_engine.tensorrt.data_type", "fp32"),
    ("classification_tf1", Action.TRAIN, "train_config.n_epochs", 80),
    ("classification_tf1", Action.TRAIN, "gpus", 1),
    ("classification_tf1", Action.GEN_TRT_ENGINE, "data_type", "fp32"),
    ("multitask_classification", Action.TRAIN, "training_config.num_epochs", 10),
    ("multitask_classification", Action.TRAIN, "gpus", 1),
    ("multitask_classification", Action.GEN_TRT_ENGINE, "data_type", "fp32"),
    ("unet", Action.TRAIN, "training_config.epochs", 50),
    ("unet", Action.TRAIN, "gpus", 1),
    ("unet", Action.GEN_TRT_ENGINE, "data_type", "fp32"),
    ("segformer", Action.TRAIN, "train.num_gpus", 1),
    ("mal", Action.TRAIN, "train.num_epochs", 10),
    ("mal", Action.TRAIN, "model.arch", "resnet18"),
    ("mal", Action.TRAIN, "gpus", 1),
    ("mal", Action.TRAIN, "strategy", "ddp"),
    ("mal", Action.EVALUATE, "evaluate.batch_size", 8),
    ("mal", Action.INFERENCE, "inference.batch_size", 8),
    *((name, Action.TRAIN, "train.num_epochs", 10) for name in ("dino", "deformable_detr", "efficientdet_tf2")),
    *((name, Action.TRAIN, "dataset.num_classes", 0) for name in ("dino", "deformable_detr", "efficientdet_tf2")),
    *((name, Action.EXPORT, "dataset.num_classes", 0) for name in ("dino", "deformable_detr")),
    ("dino", Action.TRAIN, "train.num_gpus", 1),
    ("dino", Action.GEN_TRT_ENGINE, "gen_trt_engine.tensorrt.data_type", "fp32"),
    ("dino", Action.GEN_TRT_ENGINE, "dataset.num_classes", 0),
    ("dino", Action.EVALUATE, "dataset.num_classes", 0),
    ("dino", Action.INFERENCE, "dataset.num_classes", 0),
    ("efficientdet_tf2", Action.TRAIN, "train.num_examples_per_epoch", 0),
    ("efficientdet_tf2", Action.TRAIN, "train.checkpoint_interval", 5),
    ("efficientdet_tf2", Action.TRAIN, "train.lr_schedule.warmup_epoch", 2.0),
    ("efficientdet_tf2", Action.EVALUATE, "evaluate.num_samples", 0),
    *((name, Action.TRAIN, "training_config.num_epochs", 10) for name in ("detectnet_v2", "yolo_v4", "efficientdet")),
    *((name, Action.GEN_TRT_ENGINE, "data_type", "fp32") for name in ("detectnet_v2", "yolo_v3", "efficientdet")),
    ("mask_rcnn", Action.TRAIN, "num_epochs", 10),
    ("mask_rcnn", Action.TRAIN, "num_examples_per_epoch", 0),
    ("mask_rcnn", Action.TRAIN, "learning_rate_steps", []),
    ("mask_rcnn", Action.TRAIN, "gpus", 1),
    ("mask_rcnn", Action.PRUNE, "pruning_threshold", 0.5),
    ("mask_rcnn", Action.GEN_TRT_ENGINE, "data_type", "fp32"),
    ("segformer", Action.GEN_TRT_ENGINE, "gen_trt_engine.tensorrt.data_type", "fp32"),
    *[
        (name, action, path, value)
        for name in ("ssd", "dssd", "retinanet", "faster_rcnn")
        for action, path, value in (
            (Action.TRAIN, "training_config.num_epochs", 10),
            (Action.TRAIN, "gpus", 1),
            (Action.PRUNE, "pruning_threshold", 0.5),
            (Action.GEN_TRT_ENGINE, "data_type", "fp32"),
        )
    ],
]


@pytest.mark.parametrize(("name", "action", "path", "value"), NOTEBOOK_KEYS)
def test_notebooks_find_their_keys(name: str, action: Action, path: str, value: Any) -> None:
    network = get_network(name)
    for same in {action, Action.RETRAIN} & {*network.actions} if action is Action.TRAIN else {action}:
        found = spec_schema(network.spec(same))["default"]
        for part in path.split("."):
            found = found[part]
        assert found == value
