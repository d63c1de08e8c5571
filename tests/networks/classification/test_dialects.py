"""Every classifier trains with the same settings when its own spec says the same in its own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_trainyard.networks.backbones import timm_name
from prefect_trainyard.networks.classification import spec as family
from prefect_trainyard.networks.classification.model import Record, build, load_model, save_model
from prefect_trainyard.networks.dialects import DialectSpec, in_words_of
from prefect_trainyard.networks.registry import get_network, load_implementation, networks
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import JobFailed, SpecError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.specs import leaves, parse_spec
from safetensors.torch import load_file

DIALECTS = [
    (network.name, action)
    for network in networks()
    for action, model in network.specs.items()
    if issubclass(model, DialectSpec)
]


def settings(network: str, action: str = "train", **sections: Any) -> Any:
    return parse_spec(get_network(network).spec(Action(action)), sections).settings()


@pytest.mark.parametrize(("name", "action"), DIALECTS)
def test_a_dialect_names_only_what_is_there(name: str, action: Action) -> None:
    model = get_network(name).spec(action)
    assert issubclass(model, DialectSpec)
    for own, of in ((model.NAMES.keys(), model), (model.NAMES.values(), model.FAMILY)):
        known = [path for path, _ in leaves(of)]
        assert [n for n in own if not any(p == n or p.startswith(f"{n}.") for p in known)] == []
    assert len(set(model.NAMES.values())) == len(model.NAMES)


def test_the_words_of_tf2() -> None:
    found = settings(
        "classification_tf2",
        gpus=2,
        model={"backbone": "resnet_18", "input_width": 64, "input_height": 32},
        dataset={"preprocess_mode": "tf", "augmentation": {"enable_color_augmentation": True}},
        train={
            "num_epochs": 20,
            "batch_size_per_gpu": 16,
            "optim_config": {"optimizer": "adam"},
            "lr_config": {"scheduler": "soft_anneal", "learning_rate": 0.01, "soft_start": 0.1},
            "reg_config": {"type": "none"},
            "evaluation": {"metric": "loss"},
            "early_stopping": {"patience": 3},
        },
    )
    train = found.train.train_config
    assert isinstance(found, family.TrainSpec)
    assert (found.train.num_gpus, train.runner.max_epochs, found.dataset.batch_size) == (2, 20, 16)
    assert (found.model.backbone.type, found.model.input_width, found.model.input_height) == ("resnet_18", 64, 32)
    assert (train.optimizer.type, train.optimizer.lr, train.optimizer.weight_decay) == ("adam", 0.01, 0.0)
    assert (train.lr_config.policy, train.lr_config.step_epochs) == ("step", [6, 12, 16])
    assert (train.lr_config.warmup_epochs, train.lr_config.gamma) == (2.0, 0.1)
    assert (train.evaluation.metric, train.early_stopping.patience) == ("loss", 3)
    assert found.dataset.mean == found.dataset.std == [0.5] * 3
    assert found.dataset.augmentation.brightness == 0.2


def test_the_words_of_tf1() -> None:
    found = settings(
        "classification_tf1",
        model_config={"arch": "vgg", "n_layers": 16, "input_image_size": "1,48,64"},
        train_config={"n_epochs": 5, "disable_horizontal_flip": True, "lr_config": {"scheduler": "step"}},
    )
    model, train = found.model, found.train.train_config
    assert timm_name(model.backbone.type) == "vgg16_bn"
    assert (model.input_channels, model.input_height, model.input_width) == (1, 48, 64)
    assert (train.runner.max_epochs, train.optimizer.type) == (5, "sgd")
    assert (train.lr_config.policy, train.lr_config.step_epochs) == ("step", [1, 2, 3, 4])
    assert (found.dataset.augmentation.horizontal_flip, found.dataset.augmentation.crop_min_scale) == (0.0, 0.75)


def test_a_step_that_never_comes_is_no_step() -> None:
    one = {"n_epochs": 1, "lr_config": {"scheduler": "step"}}
    assert settings("classification", train_config=one).train.train_config.lr_config.policy == "constant"


@pytest.mark.parametrize(
    ("network", "action", "wrong", "words"),
    [
        ("classification_tf2", "train", {"model": {"backbone": "fan_tiny"}}, "model.backbone: .* use convnext_tiny"),
        ("classification_tf2", "train", {"model": {"input_width": 64}}, "input_height"),
        ("classification_tf2", "train", {"dataset": {"class_weighting": "explicit"}}, "class_weights"),
        ("classification_tf2", "train", {"train": {"num_epochs": 0}}, "train.num_epochs"),
        ("classification_tf2", "train", {"train_config": {"n_epochs": 2}}, "train_config"),
        ("classification_tf2", "prune", {"prune": {"byom_model_path": "/m.h5"}}, "base experiment"),
        ("classification", "train", {"model_config": {"arch": "darknet", "n_layers": 19}}, "darknet_53"),
        ("classification", "train", {"model_config": {"input_image_size": "3,8,8"}}, "from 16 to 2048"),
        ("classification", "train", {"train_config": {"lr_config": {"annealing_points": [0.5, 0.2]}}}, "rise"),
        ("classification", "gen_trt_engine", {"min_batch_size": 9}, "min_batch_size <= opt"),
        ("classification", "export", {"batch_size": 0}, "at least 1"),
        ("classification_pyt", "train", {"model": {"backbone": {"type": "fan_small_12_p4_hybrid"}}}, "gc_vit_tiny"),
        ("classification_pyt", "train", {"model": {"backbone": {"type": "faster_vit_0_224"}}}, "fastvit"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_dialect(
    network: str, action: str, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words) as failure:
        parse_spec(get_network(network).spec(Action(action)), wrong)
    assert "train.train_config" not in failure.value.message


def test_errors_of_the_trainer_speak_of_the_parameters_of_the_dialect() -> None:
    spec = parse_spec(get_network("classification_tf2").spec(Action.TRAIN), {})
    told = "train.train_config.evaluation.metric is accuracy_top-5; train.train_config.runner.max_epochs"
    with pytest.raises(JobFailed) as failure, in_words_of(spec):
        raise JobFailed(told, hint="Set model.backbone.type.")
    assert failure.value.message == "train.evaluation.metric is accuracy_top-5; train.num_epochs"
    assert str(failure.value).endswith("Set model.backbone.")


@pytest.mark.parametrize(
    "name", ["resnet_10", "vgg_19", "efficientnet-b3", "mobilenet_v2", "gc_vit_base", "darknet_53"]
)
def test_words_of_the_documents_are_models_of_timm(name: str) -> None:
    import timm

    assert timm.is_model(timm_name(name))
    assert timm_name("convnext_tiny") == "convnext_tiny"


def test_dialects_train_the_same_network_to_the_same_weights(tmp_path: Path, digits: Path) -> None:
    same = {"n_workers": 0, "batch_size_per_gpu": 16, "deterministic": True, "rotation": 5.0}
    tf1 = {**{k: v for k, v in same.items() if k != "rotation"}, "n_epochs": 1, "rotation": 5.0}
    tf2 = {**{k: v for k, v in same.items() if k != "rotation"}, "num_epochs": 1}
    specs: dict[str, dict[str, Any]] = {
        "classification": {"model_config": {"arch": "test_resnet"}, "train_config": tf1},
        "classification_tf2": {
            "model": {"backbone": "test_resnet"},
            "dataset": {"augmentation": {"rotation": 5.0}},
            "train": tf2,
        },
    }
    weights = []
    for name, sections in specs.items():
        network = get_network(name)
        output = load_implementation(network).train(
            parse_spec(network.spec(Action.TRAIN), sections),
            train_data=digits / "few",
            eval_data=None,
            out=tmp_path / name,
            weights=None,
            reporter=SilentReporter(),
        )
        path = tmp_path / name / output.artifacts[0].path
        assert load_model(path)[1].network == name
        weights.append(load_file(path))
    assert all(bool((weights[0][key] == weights[1][key]).all()) for key in weights[0])


def test_a_network_is_found_by_its_alias(spec: Callable[..., Any]) -> None:
    assert get_network("classification_tf1") is get_network("classification")
    assert "classification_tf1" not in [network.name for network in networks()]


def test_a_threshold_below_every_channel_leaves_the_network_and_says_so(tmp_path: Path) -> None:
    facts = Record(backbone="test_resnet", classes=["a", "b"], channels=3, width=32, height=32, mean=[0.5], std=[0.5])
    save_model(tmp_path / "model.safetensors", build(facts).state_dict(), facts)
    network = get_network("classification")
    pruned = load_implementation(network).prune(
        parse_spec(network.spec(Action.PRUNE), {"pruning_threshold": 1e-6}),
        model=tmp_path / "model.safetensors",
        data=None,
        out=tmp_path,
        reporter=SilentReporter(),
    )
    assert pruned.kpi["removed_share"] == 0
    assert "pruning_granularity and min_num_filters keep it. Raise pruning_threshold, or use" in pruned.message
