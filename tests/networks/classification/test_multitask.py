"""What is special about a classifier with several tasks; the rest is in the contract of all networks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks.contract_data import class_folders, table_of_tasks
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.classification.actions import CLASSIFICATION, MULTITASK_CLASSIFICATION
from prefect_trainyard.networks.classification.heads import UNKNOWN, flat_classes, labels_for
from prefect_trainyard.networks.classification.metrics import score
from prefect_trainyard.networks.classification.model import Record, build
from prefect_trainyard.networks.classification.objectives import TaskObjective
from prefect_trainyard.networks.registry import Network, get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import DatasetError
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind, Output
from prefect_trainyard.testing import ContractData, KeepingReporter
from prefect_trainyard.testing.networks import quick_spec

NETWORK: Network = get_network("multitask_classification")
TASKS = {"type": ["a", "b", "c"], "colour": ["blue", "red"]}


def record(tasks: dict[str, list[str]]) -> Record:
    return Record(
        backbone="test_resnet",
        classes=flat_classes(tasks),
        tasks=tasks,
        channels=3,
        width=32,
        height=32,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ContractData:
    return table_of_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def trained(data: ContractData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Output, KeepingReporter]:
    out, reporter = tmp_path_factory.mktemp("trained"), KeepingReporter()
    output = MULTITASK_CLASSIFICATION.train(
        quick_spec(NETWORK, Action.TRAIN, 20),
        train_data=data.labelled,
        eval_data=data.labelled,
        out=out,
        weights=None,
        reporter=reporter,
    )
    return out, output, reporter


def test_every_task_is_measured(trained: tuple[Path, Output, KeepingReporter]) -> None:
    out, output, reporter = trained
    assert {"accuracy.type", "accuracy.colour", "accuracy_top-1", "loss"} <= reporter.metrics[0].keys()
    assert output.kpi["accuracy_top-1"] == pytest.approx(
        (output.kpi["accuracy.type"] + output.kpi["accuracy.colour"]) / 2
    )
    assert output.kpi["accuracy.type"] > 0.9 and output.kpi["accuracy.colour"] > 0.9
    assert {"type", "colour", "type=0", "colour=red"} <= output.categorical["f1"].keys()
    # why 23: one cell of the table is empty.
    assert [output.categorical["support"][task] for task in ("type", "colour")] == [24, 23]
    assert output.confusion is None
    with (out / "evaluate/confusion_colour.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["true", "blue", "green", "red"]
    assert sum(int(cell) for row in rows for cell in row[1:]) == 23


def test_a_graph_has_an_output_for_each_task(
    trained: tuple[Path, Output, KeepingReporter], data: ContractData, tmp_path: Path
) -> None:
    out, output, _ = trained
    assert output.model is not None
    exported = MULTITASK_CLASSIFICATION.export(
        quick_spec(NETWORK, Action.EXPORT),
        model=out / output.model.path,
        data=data.labelled,
        out=tmp_path,
        reporter=SilentReporter(),
    )
    graph = onnx.load(tmp_path / exported.artifacts[0].path).graph
    classes = {entry.name: entry.type.tensor_type.shape.dim[1].dim_value for entry in graph.output}
    assert classes == {"logits_type": 3, "logits_colour": 3}


def test_predictions_have_the_columns_of_each_task(
    trained: tuple[Path, Output, KeepingReporter], data: ContractData, tmp_path: Path
) -> None:
    out, output, _ = trained
    assert output.model is not None
    found = MULTITASK_CLASSIFICATION.infer(
        NETWORK.spec(Action.INFERENCE)(top_k=2),
        model=out / output.model.path,
        data=data.unlabelled,
        out=tmp_path,
        reporter=SilentReporter(),
    )
    predictions = found.artifact(ArtifactKind.PREDICTIONS)
    assert predictions is not None
    with (tmp_path / predictions.path).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path",
        *("type", "type_confidence", "type_2", "type_confidence_2"),
        *("colour", "colour_confidence", "colour_2", "colour_confidence_2"),
    ]
    assert {row["colour"] for row in rows} <= {"blue", "green", "red"}
    assert all(float(row["type_confidence"]) >= float(row["type_confidence_2"]) for row in rows)


def test_what_nobody_knows_counts_nowhere() -> None:
    facts = record(TASKS)
    logits = np.array([[5, 0, 0, 5, 0], [0, 5, 0, 5, 0], [0, 5, 0, 0, 5]], np.float32)
    labels = np.array([[0, 0], [1, UNKNOWN], [2, 1]])
    found = score(logits, labels, facts)
    assert found.kpi["accuracy.type"] == pytest.approx(2 / 3)
    assert found.kpi["accuracy.colour"] == 1.0
    assert found.kpi["accuracy_all"] == pytest.approx(2 / 3)
    assert found.confusions["colour"].tolist() == [[1, 0], [0, 1]]
    objective = TaskObjective(facts, 0.0)
    measured = objective.metrics(objective.sums(torch.from_numpy(logits), torch.from_numpy(labels)).tolist())
    assert measured == pytest.approx({name: found.kpi[name] for name in measured})


def test_a_batch_that_knows_nothing_of_a_task_has_a_loss() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    loss = TaskObjective(record(TASKS), 0.1).loss(logits, torch.tensor([[0, UNKNOWN], [1, UNKNOWN]]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert logits.grad[:, 3:].abs().sum() == 0


def test_labels_are_matched_by_the_names_of_tasks_and_classes(data: ContractData) -> None:
    index = open_index(data.labelled)
    own = record(index.tasks)
    turned = record({task: classes[::-1] for task, classes in reversed(index.tasks.items())})
    expected, found = labels_for(index, own, "evaluation"), labels_for(index, turned, "evaluation")
    known = expected != UNKNOWN
    assert (np.where(known, 2 - expected, UNKNOWN)[:, ::-1] == found).all()


def test_data_that_does_not_fit_is_named(data: ContractData, tmp_path: Path) -> None:
    index = open_index(data.labelled)
    with pytest.raises(DatasetError, match="has the tasks type, colour, and the model has colour, size"):
        labels_for(index, record({"colour": ["red"], "size": ["s"]}), "evaluation")
    with pytest.raises(DatasetError, match=r"In colour the evaluation data set has classes .* blue, green"):
        labels_for(index, record({**index.tasks, "colour": ["red"]}), "evaluation")
    folders = class_folders(tmp_path / "folders")
    given = {"eval_data": None, "weights": None, "reporter": SilentReporter()}
    with pytest.raises(DatasetError, match=r"one class per image, by folders\. .*train\.csv"):
        MULTITASK_CLASSIFICATION.train(
            quick_spec(NETWORK, Action.TRAIN, 1), train_data=folders.labelled, out=tmp_path / "a", **given
        )
    plain = get_network("classification_pyt")
    with pytest.raises(DatasetError, match=r"labels of tasks \(type, colour\).* Train multitask_classification"):
        CLASSIFICATION.train(quick_spec(plain, Action.TRAIN, 1), train_data=data.labelled, out=tmp_path / "b", **given)


def test_names_of_tasks_need_not_be_names_of_modules() -> None:
    tasks = {"type": ["a", "b"], "forward": ["c", "d"], "0": ["e", "f"]}
    assert build(record(tasks))(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
