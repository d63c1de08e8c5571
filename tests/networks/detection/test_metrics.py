"""Average precision against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from prefect_trainyard.datasets.box_index import BoxIndex
from prefect_trainyard.networks.detection.metrics import Detections, Scores, Truth, score, truths
from prefect_trainyard.schemas.errors import DatasetError

A, B = (10.0, 10.0, 60.0, 60.0), (100.0, 100.0, 150.0, 150.0)
NOWHERE = (300.0, 300.0, 350.0, 350.0)
CLASSES = ["cat", "dog"]


def truth(*boxes: tuple[float, ...], labels: list[int] | None = None, ignored: list[bool] | None = None) -> Truth:
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    return Truth(
        edges,
        np.array(labels or [0] * len(boxes), np.int64),
        np.array(ignored or [False] * len(boxes), bool),
        (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]),
    )


def found(*boxes: tuple[float, ...], scores: list[float] | None = None, labels: list[int] | None = None) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or np.linspace(0.9, 0.5, len(boxes)), np.float32),
        np.array(labels or [0] * len(boxes), np.int64),
    )


def one(what: Truth, predicted: Detections) -> Scores:
    return score([what], [predicted], CLASSES)


def test_all_found_is_one() -> None:
    scores = score([truth(A, B), truth(B, labels=[1])], [found(B, A), found(B, labels=[1])], CLASSES)
    assert scores.kpi == pytest.approx({"mAP": 1, "mAP50": 1, "mAP75": 1, "mAP_medium": 1, "mAR100": 1})
    assert scores.ap == pytest.approx({"cat": 1, "dog": 1}) and scores.ap50 == pytest.approx({"cat": 1, "dog": 1})


def test_a_false_one_between_two_right_ones() -> None:
    # Precision 1 up to recall 0.5, which are 51 of the 101 points; 2/3 for the other 50.
    expected = (51 + 50 * 2 / 3) / 101
    scores = one(truth(A, B), found(A, NOWHERE, B))
    assert scores.kpi["mAP"] == pytest.approx(expected) and scores.ap == pytest.approx({"cat": expected})
    assert scores.kpi["mAR100"] == 1


def test_one_of_two_found() -> None:
    scores = one(truth(A, B), found(A))
    assert scores.kpi["mAP50"] == pytest.approx(51 / 101) and scores.kpi["mAR100"] == pytest.approx(0.5)


def test_a_box_that_fits_by_62_percent_counts_at_three_of_ten_thresholds() -> None:
    scores = one(truth((0, 0, 50, 50)), found((0, 0, 50, 31)))
    assert scores.kpi["mAP"] == pytest.approx(0.3)
    assert (scores.kpi["mAP50"], scores.kpi["mAP75"]) == pytest.approx((1, 0))
    assert scores.ap50 == pytest.approx({"cat": 1})


def test_the_second_box_on_one_object_is_wrong() -> None:
    # Precisions 1, 1/2, 2/3: as one false in between.
    assert one(truth(A, B), found(A, A, B)).kpi["mAP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_right_place_with_the_wrong_class_is_wrong() -> None:
    scores = one(truth(A, B, labels=[0, 1]), found(A, B, labels=[0, 0]))
    assert scores.ap == pytest.approx({"cat": 1, "dog": 0}) and scores.kpi["mAP"] == pytest.approx(0.5)


def test_a_class_without_objects_does_not_count() -> None:
    scores = one(truth(A), found(A, B, labels=[0, 1]))
    assert scores.ap == pytest.approx({"cat": 1}) and scores.kpi["mAP"] == pytest.approx(1)


@pytest.mark.parametrize("label", [0, -1])
def test_what_is_found_in_crowds_and_regions_to_ignore_does_not_count(label: int) -> None:
    what = truth(A, B, labels=[0, label], ignored=[False, True])
    inside = (110.0, 110.0, 140.0, 140.0)
    assert one(what, found(B, inside, A)).kpi["mAP"] == pytest.approx(1)
    assert one(what, found(A)).kpi["mAP"] == pytest.approx(1)


def test_sizes_are_told_apart() -> None:
    small, large = (0.0, 0.0, 20.0, 20.0), (100.0, 100.0, 300.0, 300.0)
    scores = one(truth(small, A, large), found(A, large))
    assert (scores.kpi["mAP_small"], scores.kpi["mAP_medium"], scores.kpi["mAP_large"]) == pytest.approx((0, 1, 1))


def test_nothing_found_and_nothing_there() -> None:
    scores = score([truth(A), truth()], [found(), found()], CLASSES)
    assert scores.kpi["mAP"] == 0 and scores.ap == {"cat": 0}
    assert score([truth()], [found()], CLASSES).kpi == {}
    assert score([truth()], [found(A)], CLASSES).ap == {}


def test_the_first_hundred_count() -> None:
    many = found(*[NOWHERE] * 100, A, scores=[0.9] * 100 + [0.1])
    assert one(truth(A), many).kpi["mAR100"] == 0


def test_the_truth_of_an_index_scores_one_against_itself(scenes: BoxIndex) -> None:
    classes = ["digit_8", "other", "digit_3", "digit_5"]
    what = truths(scenes, classes)
    perfect = [Detections(t.boxes, np.ones(len(t.labels)), t.labels) for t in what]
    scores = score(what, perfect, classes)
    assert scores.kpi["mAP"] == pytest.approx(1)
    assert set(scores.ap) == {"digit_8", "digit_3", "digit_5"}
    with pytest.raises(DatasetError, match="evaluation data set has classes"):
        truths(scenes, ["digit_8"])
