"""What every network keeps, as tests. Ours and those of other distributions pass the same ones.

class TestMine(NetworkContract):
    @pytest.fixture(scope="class")
    def network(self) -> Network:
        return get_network("mine")

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory) -> ContractData:
        return ContractData(labelled=..., unlabelled=...)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from ..networks.registry import Network, load_implementation
from ..schemas.actions import Action
from ..schemas.errors import YardError
from ..schemas.reporting import SilentReporter
from ..schemas.results import ArtifactKind, Output
from ..schemas.specs import leaves, parse_spec, spec_schema
from ..schemas.sweeps import SweepSettings
from ..sweeps.space import build_space

#: Enough to learn a few dozen images by heart.
EPOCHS = 30

#: The loss falls at least to this share of what it was after the first epoch.
FORGOTTEN = 0.5

_METHODS = {Action.GEN_TRT_ENGINE: "build_engine", Action.INFERENCE: "infer"}


@dataclass(frozen=True, kw_only=True)
class ContractData:
    """Folders with indexed data: a few dozen labelled items, and items of the same kind without labels."""

    labelled: Path
    unlabelled: Path
    prompts: Path | None = None
    """What inference is given, for networks that cannot do with items alone."""


class KeepingReporter(SilentReporter):
    """Keeps what an action reports, and asks it to stop when it has asked so many times whether it should."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.metrics: list[dict[str, float]] = []
        self._stop_at = stop_at
        self._asked = 0

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.metrics.append(dict(metrics))

    def saved(self, paths: Sequence[Path]) -> None:
        missing = [str(path) for path in paths if not path.is_file()]
        assert not missing, f"reported as saved, but not there: {missing}"

    def stop_requested(self) -> bool:
        self._asked += 1
        return self._asked == self._stop_at


@dataclass(frozen=True, kw_only=True)
class Trained:
    weights: Path
    output: Output
    losses: list[float]


class NetworkContract:
    """Tests of one network; the settings that make it quick are those of its record (`Network.quick`)."""

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> Network:
        raise NotImplementedError("override the fixture `network`")

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> ContractData:
        raise NotImplementedError("override the fixture `data`")

    @pytest.fixture(scope="class")
    @classmethod
    def implementation(cls, network: Network) -> Any:
        return load_implementation(network)

    @pytest.fixture(scope="class")
    @classmethod
    def train(cls, network: Network, data: ContractData, implementation: Any) -> Callable[..., Output]:
        torch.set_num_threads(1)

        def run(out: Path, epochs: int = 3, reporter: KeepingReporter | None = None, **changes: Any) -> Output:
            given = {"train_data": data.labelled, "eval_data": data.labelled, "weights": None, **changes}
            spec = quick_spec(network, Action.TRAIN, epochs)
            output: Output = implementation.train(spec, out=out, reporter=reporter or KeepingReporter(), **given)
            return output

        return run

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, train: Callable[..., Output], tmp_path_factory: pytest.TempPathFactory) -> Trained:
        """A model that knows the data by heart, for all tests that start from one."""
        out = tmp_path_factory.mktemp("trained")
        reporter = KeepingReporter()
        output = train(out, EPOCHS, reporter)
        return Trained(
            weights=_file(out, output, ArtifactKind.WEIGHTS),
            output=output,
            losses=[metrics["train_loss"] for metrics in reporter.metrics],
        )

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, train: Callable[..., Output], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Output]:
        """Three epochs without a break."""
        out = tmp_path_factory.mktemp("whole")
        return out, train(out)

    @pytest.fixture
    def measure(self, network: Network, data: ContractData, implementation: Any, tmp_path: Path) -> Any:
        """Return what `evaluate` finds about a model on the data that it was trained on."""

        def run(model: Path) -> Output:
            output: Output = implementation.evaluate(
                quick_spec(network, Action.EVALUATE),
                model=model,
                data=data.labelled,
                out=tmp_path / model.stem,
                reporter=KeepingReporter(),
            )
            return output

        return run

    # --- the record and the specs

    def test_the_record_and_the_implementation_agree(self, network: Network, implementation: Any) -> None:
        for action in network.actions:
            method = _METHODS.get(action, str(action))
            assert callable(getattr(implementation, method, None)), f"{network.implementation} has no {method}()"
        assert network.metrics[0] == network.key_metric
        assert network.training_metrics[network.key_metric] == network.maximize
        assert network.dataset_formats and network.library and network.licence

    def test_every_spec_is_served_with_valid_defaults(self, network: Network) -> None:
        for action in network.actions:
            model = network.spec(action)
            schema = spec_schema(model)
            text = json.dumps(schema["default"])
            assert "'" not in text, "clients pass specs to a shell in single quotes"
            assert parse_spec(model, json.loads(text)).model_dump(mode="json") == schema["default"]
            silent = [path for path, info in leaves(model) if not (info.description or "").endswith(".")]
            assert not silent, f"{action} does not describe {silent}"
        assert any(info.json_schema_extra for _, info in leaves(network.spec(Action.TRAIN)))

    def test_a_sweep_has_something_to_search(self, network: Network) -> None:
        own = {path for path in (network.epochs_parameter, network.metric_parameter) if path is not None}
        space = build_space(network.spec(Action.TRAIN), {}, SweepSettings(), reserved=own)
        assert space.parameters, "no parameter of train has automl_default"
        assert not own & set(space.distributions)

    # --- training

    def test_it_learns_a_few_items_by_heart(self, network: Network, trained: Trained) -> None:
        assert trained.losses[-1] < FORGOTTEN * trained.losses[0], trained.losses
        assert set(network.metrics) >= trained.output.kpi.keys() - {"train_loss", "lr"} - _of_tasks(trained.output)
        assert trained.output.best_epoch is not None
        assert trained.output.parameter_count

    @pytest.mark.parametrize("stop_at", [2, 5])
    def test_a_stopped_training_goes_on_bit_for_bit(
        self, train: Callable[..., Output], whole: tuple[Path, Output], tmp_path: Path, stop_at: int
    ) -> None:
        stopped = train(tmp_path, reporter=KeepingReporter(stop_at))
        assert (stopped.latest_epoch or 0) < 3, "it did not stop"
        _assert_same(*whole, tmp_path, train(tmp_path))

    def test_a_training_in_parts_is_that_in_one_bit_for_bit(
        self, train: Callable[..., Output], whole: tuple[Path, Output], tmp_path: Path
    ) -> None:
        for until_epoch in (1, 2):
            assert train(tmp_path, until_epoch=until_epoch).latest_epoch == until_epoch
        _assert_same(*whole, tmp_path, train(tmp_path, until_epoch=3))

    # --- what comes after

    def test_it_is_measured(self, network: Network, trained: Trained, measure: Callable[[Path], Output]) -> None:
        found = measure(trained.weights)
        assert found.key_metric == network.key_metric
        assert network.key_metric in found.kpi
        assert set(network.metrics) >= found.kpi.keys() - _of_tasks(found)
        assert all(np.isfinite(value) for value in found.kpi.values())
        assert found.artifacts
        named = {name for by_class in found.categorical.values() for name in by_class}
        assert named >= set(found.classes), "the metrics of a class have its name"

    def test_it_predicts_items_without_labels(
        self, network: Network, data: ContractData, implementation: Any, trained: Trained, tmp_path: Path
    ) -> None:
        found = implementation.infer(
            quick_spec(network, Action.INFERENCE),
            model=trained.weights,
            data=data.prompts or data.unlabelled,
            out=tmp_path,
            reporter=KeepingReporter(),
        )
        assert _file(tmp_path, found, ArtifactKind.PREDICTIONS).stat().st_size

    def test_pruned_it_is_smaller_and_recovers(
        self,
        network: Network,
        data: ContractData,
        implementation: Any,
        trained: Trained,
        measure: Callable[[Path], Output],
        tmp_path: Path,
    ) -> None:
        if Action.PRUNE not in network.actions:
            pytest.skip(f"{network.name} is not pruned")
        pruned = implementation.prune(
            quick_spec(network, Action.PRUNE),
            model=trained.weights,
            data=data.labelled,
            out=tmp_path / "pruned",
            reporter=KeepingReporter(),
        )
        assert pruned.parameter_count < trained.output.parameter_count
        retrained = implementation.retrain(
            quick_spec(network, Action.RETRAIN, EPOCHS),
            train_data=data.labelled,
            eval_data=data.labelled,
            weights=_file(tmp_path / "pruned", pruned, ArtifactKind.WEIGHTS),
            out=tmp_path / "retrained",
            reporter=KeepingReporter(),
        )
        assert retrained.parameter_count == pruned.parameter_count
        before = measure(trained.weights).kpi[network.key_metric]
        after = measure(_file(tmp_path / "retrained", retrained, ArtifactKind.WEIGHTS)).kpi[network.key_metric]
        assert after >= 0.9 * before if network.maximize else after <= before / 0.9

    def test_its_graph_agrees_in_onnx_runtime(
        self,
        network: Network,
        data: ContractData,
        implementation: Any,
        trained: Trained,
        measure: Callable[[Path], Output],
        tmp_path: Path,
    ) -> None:
        if Action.EXPORT not in network.actions:
            pytest.skip(f"{network.name} is not exported")
        exported = implementation.export(
            quick_spec(network, Action.EXPORT),
            model=trained.weights,
            data=data.labelled,
            out=tmp_path,
            reporter=KeepingReporter(),
        )
        graph = _file(tmp_path, exported, ArtifactKind.ONNX)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            inputs = {
                entry.name: np.zeros((count, *entry.shape[1:]), dtype=np.float32) for entry in session.get_inputs()
            }
            assert all(len(output) == count for output in session.run(None, inputs)), "the batch is not dynamic"
        weights, found = measure(trained.weights).kpi, measure(graph).kpi
        assert found == pytest.approx(weights, abs=1e-3)
        if Action.GEN_TRT_ENGINE in network.actions:
            calibration = data.labelled
            if Action.CALIBRATION_TENSORFILE in network.actions:
                written = implementation.calibration_tensorfile(
                    quick_spec(network, Action.CALIBRATION_TENSORFILE),
                    model=graph,
                    data=data.unlabelled,
                    out=tmp_path,
                    reporter=KeepingReporter(),
                )
                calibration = _file(tmp_path, written, ArtifactKind.CALIBRATION)
            built = implementation.build_engine(
                quick_spec(network, Action.GEN_TRT_ENGINE),
                model=graph,
                calibration=calibration,
                out=tmp_path,
                reporter=KeepingReporter(),
            )
            engine = measure(_file(tmp_path, built, ArtifactKind.ENGINE)).kpi
            assert engine[network.key_metric] == pytest.approx(weights[network.key_metric], abs=0.02)

    # --- what is wrong

    def test_data_without_labels_is_refused_and_leaves_nothing(
        self, data: ContractData, train: Callable[..., Output], tmp_path: Path
    ) -> None:
        _assert_clear(pytest.raises(YardError), lambda: train(tmp_path / "a", train_data=data.unlabelled))
        _assert_clear(pytest.raises(YardError), lambda: train(tmp_path / "b", eval_data=data.unlabelled))
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_a_file_that_is_no_model_is_refused(self, measure: Callable[[Path], Output], tmp_path: Path) -> None:
        for name in ("model.safetensors", "model.onnx", "model.txt"):
            (tmp_path / name).write_bytes(b"not a model")
            with pytest.raises(YardError, match=name.replace(".", r"\.")):
                measure(tmp_path / name)

    def test_a_section_of_another_network_is_refused(self, network: Network) -> None:
        for action in network.actions:
            with pytest.raises(YardError, match="of_another_network"):
                parse_spec(network.spec(action), {"of_another_network": {}})


def quick_spec(network: Network, action: Action, epochs: int | None = None) -> Any:
    """Return the spec with which `action` takes seconds; of a training for so many epochs."""
    quick = network.quick.get(action)
    if quick is None and action is Action.RETRAIN:
        quick = network.quick.get(Action.TRAIN)
    raw = json.loads(json.dumps(quick or {}))
    if epochs is not None:
        *sections, last = network.epochs_parameter.split(".")
        inner = raw
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = epochs
    return parse_spec(network.spec(action), raw)


def _file(out: Path, output: Output, kind: ArtifactKind) -> Path:
    artifact = output.artifact(kind, output.best_epoch) or output.artifact(kind)
    assert artifact is not None, f"no {kind} among {[a.path for a in output.artifacts]}"
    return out / artifact.path


def _of_tasks(output: Output) -> set[str]:
    return {name for name in output.kpi if name.startswith("accuracy.")}


def _assert_same(a: Path, first: Output, b: Path, second: Output) -> None:
    assert (first.latest_epoch, first.best_epoch, first.kpi) == (second.latest_epoch, second.best_epoch, second.kpi)
    artifact = first.artifact(ArtifactKind.WEIGHTS, first.latest_epoch)
    assert artifact is not None
    one, other = load_file(a / artifact.path), load_file(b / artifact.path)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, the first is {different[0]}"


def _assert_clear(expected: Any, call: Callable[[], object]) -> None:
    """Assert that `call` fails with a sentence that somebody can do something about."""
    with expected as failure:
        call()
    error = failure.value
    assert len(error.message) > 20 and error.message[-1] in ".!?", error.message
