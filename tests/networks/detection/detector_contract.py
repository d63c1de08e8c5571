"""What every detector must do, on a few pictures of digits: subclasses say which one, and how it learns them."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_index import build_box_index, open_box_index
from prefect_trainyard.datasets.boxes import DONT_CARE
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.model import Record
from prefect_trainyard.networks.detection.pictures import Pictures, Target
from prefect_trainyard.networks.onnx_tools import export_graph
from prefect_trainyard.networks.pruning import Bounds, prune_share, prune_threshold
from prefect_trainyard.networks.weights import count_parameters, resize_to
from prefect_trainyard.schemas.specs import Spec
from torchvision.ops import batched_nms, box_iou

CLASSES = ["digit_3", "digit_5", "digit_8"]
SIZE = 64
OUTPUTS = ("boxes", "scores", "masks")
#: Sizes of anchors, as kmeans gives them for the digits of such pictures.
SMALL, MIDDLE, LARGE = [(11.0, 17.0), (15.0, 22.0)], [(18.0, 28.0), (22.0, 34.0)], [(28.0, 44.0), (36.0, 50.0)]


@dataclass(frozen=True)
class Few:
    """Pictures of SIZE x SIZE, normalized, and what is in them."""

    inputs_BCHW: torch.Tensor
    targets: list[Target]


@dataclass(frozen=True)
class Learned:
    detector: Detector
    losses: list[float]


def record_of(network: str, config: Spec) -> Record:
    """Return the record of a network for CLASSES and pictures of SIZE x SIZE."""
    return Record(
        network=network,
        backbone="test_resnet",
        options=config.model_dump(),
        classes=CLASSES,
        channels=3,
        width=SIZE,
        height=SIZE,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )


def trace(detector: torch.nn.Module, inputs_BCHW: torch.Tensor) -> object:
    assert isinstance(detector, Detector)
    return detector.traced(inputs_BCHW)


def nothing() -> Target:
    return Target(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
    )


def filled(boxes_N4: torch.Tensor) -> torch.Tensor:
    """Return masks that fill their boxes."""
    middle = torch.arange(SIZE) + 0.5
    x1, y1, x2, y2 = boxes_N4.T[..., None, None]
    return (middle > x1) & (middle < x2) & (middle[:, None] > y1) & (middle[:, None] < y2)


def learn(detector: Detector, few: Few, steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(detector.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    detector.train()
    losses = []
    for _ in range(steps):
        loss = detector(few.inputs_BCHW, few.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def detections(detector: Detector, inputs_BCHW: torch.Tensor, at_least: float) -> list[Target]:
    """Return what the detector is sure of, by plain non-maximum suppression where it needs one."""
    with torch.inference_mode():
        boxes_BN4, scores_BNK, *_ = detector.eval()(inputs_BCHW)
    found = []
    for boxes_N4, scores_NK in zip(boxes_BN4, scores_BNK, strict=True):
        scores_N, labels_N = scores_NK.max(dim=1)
        kept = (scores_N > at_least).nonzero()[:, 0]
        if detector.selection == "nms":
            kept = kept[batched_nms(boxes_N4[kept], scores_N[kept], labels_N[kept], 0.5)]
        found.append(Target(boxes_N4[kept], labels_N[kept], torch.zeros(len(kept), dtype=torch.bool)))
    return found


def found_share(found: Sequence[Target], targets: Sequence[Target], iou: float = 0.5) -> tuple[float, float]:
    """Return which share of the objects was found with the right label, and which share of what was found is right."""
    right = objects = 0
    for one, truth in zip(found, targets, strict=True):
        fits = (box_iou(one.boxes, truth.boxes) > iou) & (one.labels[:, None] == truth.labels[None])
        right += int(fits.any(dim=0).sum()) if len(one) else 0
        objects += len(truth)
    return right / objects, right / max(1, sum(len(one) for one in found))


def few_pictures(root: Path) -> Few:
    """Six pictures with digits 3, 5 and 8."""
    digit_scenes().write_scenes(root / "raw", "coco", pictures=6, size=(SIZE, SIZE))
    build_box_index(root / "raw", "coco", root / "index")
    pictures = Pictures(open_box_index(root / "index"), (SIZE, SIZE), classes=CLASSES, masks=True)
    inputs = (pictures.pixels(range(6)).float() - 127.0) / 64.0
    return Few(inputs, [pictures.target(i) for i in range(6)])


class DetectorContract:
    """Pictures of SIZE; a detector of CLASSES."""

    steps = 80
    rate = 3e-3
    #: The loss falls below this share of the first.
    falls_to = 0.2
    is_prunable = True

    @staticmethod
    @abstractmethod
    def build() -> Detector: ...

    def test_it_learns_a_few_pictures_by_heart(self, learned: Learned, few: Few) -> None:
        assert np.isfinite(learned.losses).all()
        assert np.mean(learned.losses[-3:]) < self.falls_to * learned.losses[0], learned.losses[:: self.steps // 10]
        recall, precision = found_share(detections(learned.detector, few.inputs_BCHW, 0.3), few.targets)
        assert recall > 0.85 and precision > 0.7, (recall, precision)

    def test_candidates_are_dense_and_of_any_batch(self, learned: Learned, few: Few) -> None:
        with torch.inference_mode():
            boxes_BN4, scores_BNK, *_ = learned.detector(few.inputs_BCHW[:3])
            alone_1N4, alone_1NK, *_ = learned.detector(few.inputs_BCHW[:1])
        assert boxes_BN4.shape == (3, boxes_BN4.shape[1], 4)
        assert scores_BNK.shape == (3, boxes_BN4.shape[1], len(CLASSES))
        assert scores_BNK.min() >= 0 and scores_BNK.max() <= 1
        assert (boxes_BN4[..., 2:] >= boxes_BN4[..., :2]).all()
        assert torch.allclose(alone_1N4, boxes_BN4[:1], atol=1e-2) and torch.allclose(
            alone_1NK, scores_BNK[:1], atol=1e-4
        )

    def test_pictures_without_objects_teach_that_there_is_nothing(self, few: Few) -> None:
        torch.manual_seed(0)
        detector = self.build().train()
        for targets in ([nothing(), few.targets[1], nothing()], [nothing()] * 3):
            detector.zero_grad()
            loss = detector(few.inputs_BCHW[:3], targets)
            loss.backward()
            assert loss.ndim == 0 and torch.isfinite(loss) and loss > 0
            gradients = [parameter.grad for parameter in detector.parameters() if parameter.requires_grad]
            # Every parameter has a gradient: else training on several GPUs would wait for it for ever.
            assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)

    def test_regions_to_ignore_teach_nothing(self, learned: Learned, few: Few) -> None:
        """A network that finds the objects is wrong where there are none, but not where they are to be ignored."""
        detector, targets = copy.deepcopy(learned.detector), few.targets
        whole = torch.tensor([[0.0, 0.0, SIZE, SIZE]])
        hidden = [
            Target(whole, torch.tensor([DONT_CARE]), torch.tensor([True]), filled(whole)),
            replace(targets[1], is_ignored=torch.ones(len(targets[1]), dtype=torch.bool)),
        ]
        with torch.inference_mode():
            wrong = detector(few.inputs_BCHW[:2], [nothing(), nothing()])
        ignored = detector(few.inputs_BCHW[:2], hidden)
        ignored.backward()
        assert torch.isfinite(ignored) and ignored < 0.5 * wrong
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())

    def test_boxes_at_the_edge_and_boxes_without_area(self, few: Few) -> None:
        torch.manual_seed(0)
        size = float(SIZE)
        boxes = torch.tensor([[0, 0, size, size], [size - 1, size - 1, size, size], [9, 9, 9, 30], [0, 0, 1, 1]])
        target = Target(boxes, torch.tensor([0, 1, 2, 2]), torch.zeros(4, dtype=torch.bool), filled(boxes))
        detector = self.build().train()
        loss = detector(few.inputs_BCHW[:2], [target, target])
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())

    def test_it_learns_in_half_precision(self, learned: Learned, few: Few) -> None:
        detector = copy.deepcopy(learned.detector)
        with torch.autocast("cpu", torch.bfloat16):
            half = detector(few.inputs_BCHW, few.targets)
            boxes_BN4, scores_BNK, *_ = detector(few.inputs_BCHW)
        half.backward()
        assert half.dtype == boxes_BN4.dtype == scores_BNK.dtype == torch.float32
        whole = detector(few.inputs_BCHW, few.targets)
        assert torch.isclose(half, whole, rtol=0.2), (half, whole)
        assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)

    def test_its_state_goes_into_another_one(self, learned: Learned, few: Few) -> None:
        torch.manual_seed(1)
        other = self.build()
        other.load_state_dict(learned.detector.state_dict())
        with torch.inference_mode():
            for ours, theirs in zip(
                learned.detector(few.inputs_BCHW[:2]), other.eval()(few.inputs_BCHW[:2]), strict=True
            ):
                assert torch.equal(ours, theirs)

    def test_the_same_seed_gives_the_same_losses(self, few: Few) -> None:
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            runs.append(learn(self.build(), few, 2, self.rate))
        assert runs[0] == runs[1]

    def test_its_graph_says_the_same(self, learned: Learned, few: Few, tmp_path: Path) -> None:
        graph = export_graph(
            copy.deepcopy(learned.detector),
            (3, SIZE, SIZE),
            opset=18,
            batch_size=-1,
            optimize=True,
            outputs=OUTPUTS[: 3 if learned.detector.mask_side else 2],
        )
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for count in (1, 3):
            inputs = few.inputs_BCHW[:count]
            boxes_BN4, scores_BNK, *masks = session.run(None, {"images": inputs.numpy()})
            with torch.inference_mode():
                expected_BN4, expected_BNK, *expected = learned.detector(inputs)
            assert np.allclose(boxes_BN4, expected_BN4, atol=0.05, rtol=1e-3)
            assert np.allclose(scores_BNK, expected_BNK, atol=1e-3)
            assert len(masks) == bool(learned.detector.mask_side)
            for cells_BNX, expected_BNX in zip(masks, expected, strict=True):
                assert np.allclose(cells_BNX, expected_BNX, atol=1e-2)

    @pytest.mark.filterwarnings("ignore:Unwrapped parameters")
    def test_it_is_pruned_rebuilt_and_learns_on(self, learned: Learned, few: Few) -> None:
        pruned = self._prunable(learned)
        prune_share(pruned, torch.zeros(1, 3, SIZE, SIZE), 0.3, Bounds(pruned.fixed_layers(), 4, 4, trace))
        assert count_parameters(pruned) <= 0.7 * count_parameters(learned.detector)
        rebuilt = self._rebuilt(pruned, few)
        losses = learn(rebuilt, few, 20, self.rate / 3)
        assert np.mean(losses[-3:]) < self.falls_to * learned.losses[0], losses

    @pytest.mark.filterwarnings("ignore:Unwrapped parameters")
    def test_its_weak_channels_are_pruned(self, learned: Learned, few: Few) -> None:
        pruned = self._prunable(learned)
        prune_threshold(pruned, torch.zeros(1, 3, SIZE, SIZE), 0.95, Bounds(pruned.fixed_layers(), 4, 4, trace))
        assert count_parameters(pruned) < count_parameters(learned.detector)
        self._rebuilt(pruned, few)

    def _prunable(self, learned: Learned) -> Detector:
        if not self.is_prunable:
            pytest.skip("TAO does not prune it either")
        return copy.deepcopy(learned.detector)

    def _rebuilt(self, pruned: Detector, few: Few) -> Detector:
        rebuilt = self.build()
        resize_to(rebuilt, pruned.state_dict())
        rebuilt.load_state_dict(pruned.state_dict())
        with torch.inference_mode():
            for ours, theirs in zip(pruned.eval()(few.inputs_BCHW), rebuilt.eval()(few.inputs_BCHW), strict=True):
                assert torch.allclose(ours, theirs, atol=1e-4)
        return rebuilt
