from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.networks.classification.actions import CLASSIFICATION
from prefect_trainyard.networks.classification.model import load_model
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.errors import DatasetError, JobFailed, MissingFeature, SpecError
from prefect_trainyard.schemas.results import ArtifactKind, Output
from safetensors.torch import load_file, save_file

AUGMENTATION = {"rotation": 15.0, "erasing": 0.3, "mixup_alpha": 0.2, "brightness": 0.2}


def options(epochs: int = 3, **train_config: Any) -> dict[str, Any]:
    return {
        "model": {"backbone": {"type": "test_resnet", "drop_rate": 0.2}},
        "dataset": {"batch_size": 16, "augmentation": AUGMENTATION},
        "train": {
            "exp_config": {"deterministic": True},
            "train_config": {"runner": {"max_epochs": epochs}, **train_config},
        },
    }


@pytest.fixture
def train(digits: Path, spec: Callable[..., Any], make_recorder: Callable[..., Any]) -> Callable[..., Output]:
    def run(out: Path, reporter: Any = None, action: str = "train", **changes: Any) -> Output:
        settings = {"weights": None, "train_data": digits / "few", "eval_data": digits / "few", **changes}
        sections = settings.pop("options", options())
        method = getattr(CLASSIFICATION, action)
        return method(spec("train", **sections), out=out, reporter=reporter or make_recorder(), **settings)

    return run


def latest(out: Path, result: Output) -> dict[str, torch.Tensor]:
    return load_file(out / f"train/model_epoch_{result.latest_epoch:03d}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop_at", [4, 9])
def test_a_stopped_training_goes_on_to_the_same_weights(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any], stop_at: int
) -> None:
    whole = train(tmp_path / "whole")
    part = train(tmp_path / "part", make_recorder(lambda r: r.checks == stop_at))
    assert "resumed" in part.message
    assert any(artifact.kind == ArtifactKind.CHECKPOINT for artifact in part.artifacts)
    rest = train(tmp_path / "part")
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "part", rest))
    assert (rest.best_epoch, rest.kpi) == (whole.best_epoch, whole.kpi)


def test_a_training_in_parts_gives_the_weights_of_one(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    whole = train(tmp_path / "whole")
    recorders = [make_recorder() for _ in range(3)]
    parts = [
        train(tmp_path / "parts", recorder, until_epoch=end) for recorder, end in zip(recorders, (1, 2, 9), strict=True)
    ]
    assert [[epoch for epoch, _ in recorder.epochs] for recorder in recorders] == [[1], [2], [3]]
    assert parts[0].message.startswith("Trained 1 of 3 epochs; best was epoch 1 with ")
    assert parts[2].message == whole.message
    assert parts[2].message.startswith("Trained 3 epochs; ")
    # why: figures and metrics per class are only for a training that is complete.
    assert [bool(part.categorical) for part in parts] == [False, False, True]
    assert all(artifact.kind in (ArtifactKind.WEIGHTS, ArtifactKind.CHECKPOINT) for artifact in parts[1].artifacts)
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "parts", parts[2]))
    assert (parts[2].best_epoch, parts[2].kpi) == (whole.best_epoch, whole.kpi)


def test_the_best_epoch_may_be_best_in_any_metric_that_training_measures(
    tmp_path: Path, digits: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    data = {"train_data": digits / "test", "eval_data": digits / "test"}
    for metric, larger_is_better in get_network("classification_pyt").training_metrics.items():
        recorder = make_recorder()
        result = train(tmp_path / metric, recorder, options=options(3, evaluation={"metric": metric}), **data)
        assert result.key_metric == metric
        best = (max if larger_is_better else min)(metrics[metric] for _, metrics in recorder.epochs)
        assert result.kpi[metric] == best
        assert f"{metric} {best:.4f}" in result.message


def test_accuracy_of_five_among_four_classes_is_refused(tmp_path: Path, train: Callable[..., Output]) -> None:
    asked = options(1, evaluation={"metric": "accuracy_top-5"})
    with pytest.raises(JobFailed, match=r"evaluation\.metric is accuracy_top-5.* only 4 classes"):
        train(tmp_path, options=asked)
    assert train(tmp_path, options=asked, eval_data=None).key_metric == "train_loss"


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, digits: Path, train: Callable[..., Output]
) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
import torch
from prefect_trainyard.networks.classification.actions import CLASSIFICATION
from prefect_trainyard.networks.classification.spec import TrainSpec
from prefect_trainyard.schemas.reporting import SilentReporter

class Killer(SilentReporter):
    def epoch(self, epoch, max_epoch, metrics, seconds):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
few = Path({str(digits / "few")!r})
CLASSIFICATION.train(TrainSpec.model_validate({options()!r}), train_data=few, eval_data=few,
                     out=Path({str(tmp_path / "killed")!r}), weights=None, reporter=Killer())
"""
    process = subprocess.run([sys.executable, "-P", "-c", code], check=False)
    assert process.returncode == -signal.SIGKILL
    found = newest_checkpoint(tmp_path / "killed/train")
    assert found is not None
    assert found[1].epoch == 1
    rest = train(tmp_path / "killed")
    whole = train(tmp_path / "whole")
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "killed", rest))


def test_a_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, train: Callable[..., Output]) -> None:
    other = options(1)
    other["train"]["exp_config"]["manual_seed"] = 50
    runs = {"a": options(1), "b": options(1), "c": other}
    weights = {name: latest(tmp_path / name, train(tmp_path / name, options=o)) for name, o in runs.items()}
    assert same(weights["a"], weights["b"])
    assert not same(weights["a"], weights["c"])


def test_what_a_training_returns(tmp_path: Path, train: Callable[..., Output], recorder: Any) -> None:
    result = train(tmp_path, recorder)
    assert result.classes == ["0", "1", "2", "3"]
    assert result.latest_epoch == 3
    assert result.key_metric == "accuracy_top-1"
    assert result.kpi["accuracy_top-1"] == max(m["accuracy_top-1"] for _, m in recorder.epochs)
    assert all((tmp_path / artifact.path).is_file() for artifact in result.artifacts)
    assert result.artifacts[0].kind == ArtifactKind.WEIGHTS
    assert result.artifacts[0].epoch == result.best_epoch
    _, record = load_model(tmp_path / result.artifacts[0].path)
    assert record.epoch == result.best_epoch
    assert record.metrics["accuracy_top-1"] == result.kpi["accuracy_top-1"]
    assert {"train_loss", "lr", "loss", "accuracy_top-1"} == set(recorder.epochs[0][1])


def test_training_without_evaluation_data_is_ranked_by_its_loss(tmp_path: Path, train: Callable[..., Output]) -> None:
    result = train(tmp_path, eval_data=None)
    assert result.key_metric == "train_loss"
    assert result.best_epoch is not None


def test_base_weights_are_taken_over_but_for_the_classifier(
    tmp_path: Path, digits: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    base = train(tmp_path / "base", train_data=digits / "test", eval_data=None, options=options(1))
    reporter = make_recorder()
    weights = tmp_path / "base" / base.artifacts[0].path
    train(tmp_path / "fine", reporter, weights=weights, options=options(1))
    assert any("without the classifier" in line for line in reporter.lines)
    same_classes = make_recorder()
    base_few = train(tmp_path / "few", options=options(1))
    train(tmp_path / "again", same_classes, weights=tmp_path / "few" / base_few.artifacts[0].path, options=options(1))
    assert any("with the classifier" in line for line in same_classes.lines)


def test_base_weights_may_be_a_plain_file_of_timm(tmp_path: Path, train: Callable[..., Output]) -> None:
    import timm

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "plain.safetensors")
    assert train(tmp_path / "out", weights=tmp_path / "plain.safetensors", options=options(1)).latest_epoch == 1


def test_base_weights_may_be_pruned(
    tmp_path: Path, digits: Path, spec: Callable[..., Any], train: Callable[..., Output], recorder: Any
) -> None:
    base = train(tmp_path / "base", train_data=digits / "test", eval_data=None, options=options(1))
    pruned = CLASSIFICATION.prune(
        spec("prune", prune={"granularity": 4, "min_channels": 4}),
        model=tmp_path / "base" / base.artifacts[0].path,
        data=None,
        out=tmp_path / "pruned",
        reporter=recorder,
    )
    result = train(tmp_path / "fine", weights=tmp_path / "pruned" / pruned.artifacts[0].path, options=options(1))
    assert result.parameter_count is not None
    assert base.parameter_count is not None
    assert result.parameter_count < 0.7 * base.parameter_count


def test_base_weights_of_another_backbone_are_refused(tmp_path: Path, train: Callable[..., Output]) -> None:
    base = train(tmp_path / "base", options=options(1))
    other = options(1)
    other["model"]["backbone"]["type"] = "resnet10t"
    with pytest.raises(JobFailed, match="test_resnet"):
        train(tmp_path / "out", weights=tmp_path / "base" / base.artifacts[0].path, options=other)


def test_bad_input_is_named(tmp_path: Path, digits: Path, train: Callable[..., Output]) -> None:
    with pytest.raises(DatasetError, match="two classes"):
        train(tmp_path / "a", train_data=digits / "raw")
    with pytest.raises(DatasetError, match="evaluation data set has classes"):
        train(tmp_path / "b", eval_data=digits / "test")
    unknown = options()
    unknown["model"]["backbone"]["type"] = "resnet-18"
    with pytest.raises(SpecError, match=r"Similar names: .*resnet18"):
        train(tmp_path / "c", options=unknown)
    with pytest.raises(JobFailed, match="weights of its parent"):
        train(tmp_path / "d", action="retrain")
    if not torch.cuda.is_available():
        with pytest.raises(MissingFeature, match="GPU"):
            train(tmp_path / "e", options=options(precision="fp16"))


def test_a_retrain_on_other_classes_is_refused(tmp_path: Path, digits: Path, train: Callable[..., Output]) -> None:
    base = train(tmp_path / "base", options=options(1))
    weights = tmp_path / "base" / base.artifacts[0].path
    with pytest.raises(DatasetError, match="same classes"):
        train(tmp_path / "out", action="retrain", weights=weights, train_data=digits / "test", eval_data=None)


def test_bfloat16_trains_on_a_cpu(tmp_path: Path, train: Callable[..., Output]) -> None:
    assert train(tmp_path, options=options(1, precision="bf16")).latest_epoch == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_in_every_precision(tmp_path: Path, train: Callable[..., Output], precision: str) -> None:
    sections = options(2, precision=precision)
    sections["train"]["exp_config"]["deterministic"] = False
    assert train(tmp_path, options=sections).latest_epoch == 2


@pytest.mark.slow
def test_two_processes_train_in_parts(tmp_path: Path, train: Callable[..., Output]) -> None:
    two = options(2)
    two["train"]["num_gpus"] = 2
    part = train(tmp_path, options=two, until_epoch=1)
    assert part.latest_epoch == 1
    assert part.message.startswith("Trained 1 of 2 epochs")


@pytest.mark.slow
def test_two_processes_train_one_model_and_resume(
    tmp_path: Path, train: Callable[..., Output], make_recorder: Callable[..., Any]
) -> None:
    two = options(2)
    two["train"]["num_gpus"] = 2
    whole_reporter = make_recorder()
    whole = train(tmp_path / "whole", whole_reporter, options=two)
    assert [epoch for epoch, _ in whole_reporter.epochs] == [1, 2]
    stopped = train(tmp_path / "part", make_recorder(lambda r: bool(r.epochs)), options=two)
    assert stopped.latest_epoch is not None
    rest = train(tmp_path / "part", options=two)
    assert same(latest(tmp_path / "whole", whole), latest(tmp_path / "part", rest))
    # why: what a rank raises must reach the user as it is.
    two["model"]["backbone"]["type"] = "resnet-18"
    with pytest.raises(SpecError, match="resnet18"):
        train(tmp_path / "bad", options=two)
