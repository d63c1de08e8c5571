"""Which candidates are told, and how two models are compared by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prefect_trainyard.networks.detection.model import Record
from prefect_trainyard.networks.detection.selection import Limits, select

A, NEAR_A, B = [10.0, 10.0, 50.0, 50.0], [12.0, 10.0, 52.0, 50.0], [60.0, 60.0, 90.0, 90.0]


def chosen(edges: list[list[float]], scores: list[list[float]], how="nms", **limits: float) -> list[tuple[int, float]]:
    """Return labels and scores of what is told."""
    _, sure, labels, _ = select(torch.tensor(edges), torch.tensor(scores), how, Limits(**limits))
    return [(label, round(score, 3)) for label, score in zip(labels.tolist(), sure.tolist(), strict=True)]


def test_duplicates_go_within_a_class_alone() -> None:
    scores = [[0.6, 0.0], [0.9, 0.5], [0.3, 0.0]]
    assert chosen([A, NEAR_A, B], scores) == [(0, 0.9), (1, 0.5), (0, 0.3)]
    assert chosen([A, NEAR_A, B], scores, iou=0.95) == [(0, 0.9), (0, 0.6), (1, 0.5), (0, 0.3)]


def test_networks_of_one_candidate_an_object_keep_what_overlaps() -> None:
    assert chosen([A, NEAR_A], [[0.6], [0.9]], how="top_k") == [(0, 0.9), (0, 0.6)]


def test_scores_and_the_number_of_boxes_are_limited() -> None:
    scores = [[0.2, 0.0], [0.0, 0.9], [0.5, 0.0]]
    assert chosen([A, NEAR_A, B], scores, score=0.3) == [(1, 0.9), (0, 0.5)]
    assert chosen([A, NEAR_A, B], scores, boxes=1) == [(1, 0.9)]
    assert chosen([A, B], [[0.0], [0.001]]) == []


def record(**changes: object) -> Record:
    facts = {"network": "ssd", "backbone": "x", "classes": ["a", "b"], "channels": 3, "width": 100, "height": 100}
    return Record(**facts, mean=[0.5] * 3, std=[0.5] * 3, **changes)


def output(*rows: list[float]) -> np.ndarray:
    """Return the candidates of one picture: edges and scores side by side."""
    return np.array([rows], np.float32)


def test_outputs_differ_by_scores_and_by_edges_as_a_share_of_the_input() -> None:
    ours = output([*A, 0.9, 0.1], [*B, 0.2, 0.3])
    assert record().difference(ours, output([*A, 0.9, 0.15], [*B, 0.2, 0.3])) == pytest.approx(0.05)
    assert record().difference(ours, output([*NEAR_A, 0.9, 0.1], [*B, 0.2, 0.3])) == pytest.approx(0.02)


def test_the_order_of_chosen_candidates_does_not_matter() -> None:
    ours, theirs = output([*A, 0.9, 0.1], [*B, 0.2, 0.3]), output([*B, 0.2, 0.3], [*A, 0.9, 0.1])
    assert record(is_ordered=False).difference(ours, theirs) == 0
    assert record().difference(ours, theirs) > 0.5


def test_a_chosen_candidate_that_is_missing_differs_by_its_score() -> None:
    ours, theirs = output([*A, 0.9, 0.1], [*B, 0.02, 0.0]), output([*A, 0.9, 0.1], [0.0, 0.0, 5.0, 5.0, 0.03, 0.0])
    assert record(is_ordered=False).difference(ours, theirs) == pytest.approx(0.03)


def test_models_agree_on_the_objects_that_both_find() -> None:
    ours = output([*A, 0.9, 0.1], [*B, 0.0, 0.4])
    assert record().agreement(ours, ours) == (4, 4)
    # What one is hardly sure of counts as found by it when the other is.
    assert record().agreement(ours, output([*NEAR_A, 0.8, 0.1], [*B, 0.0, 0.25])) == (3, 3)
    assert record().agreement(ours, output([*A, 0.1, 0.9], [*B, 0.0, 0.4])) == (2, 4)
    assert record().agreement(output([*A, 0.1, 0.0]), output([*A, 0.2, 0.0])) == (0, 0)
