"""Base experiments: pretrained weights in the storage, as clients of each release see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from facade_support import Facade, Member, Prefect, serve
from prefect_trainyard.api.services.experiments import base as base_experiments
from prefect_trainyard.api.services.experiments.base import add, merge_page
from prefect_trainyard.api.services.paging import Page
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.base_experiments import BaseExperiment
from prefect_trainyard.schemas.errors import InvalidInput
from safetensors.numpy import save_file

NETWORK = "classification_pyt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file({"conv1.weight": np.zeros((2, 3), np.float32)}, file)
    return file


@pytest.fixture(scope="module")
def facade(prefect_server: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    """One of its own: base experiments are everybody's."""
    settings = ApiSettings(
        home=tmp_path_factory.mktemp("base"), prefect_api_url=prefect_server.api_url, free_min_bytes=0
    )
    yield from serve(settings, prefect_server)


@pytest.fixture(scope="module")
def bases(facade: Facade, weights: Path) -> list[BaseExperiment]:
    return [
        add(facade.storage, weights, network=NETWORK, name="pretrained_fan_classification_imagenet", version=version)
        for version in ("resnet18", "resnet50")
    ]


def test_clients_before_5_5_find_them_among_their_experiments(ann: Member, bases: list[BaseExperiment]) -> None:
    own = ann.experiment()
    shown = {item["id"]: item for item in ann.client.get(f"experiments?network_arch={NETWORK}").json()}
    assert set(shown) == {own, *(str(base.id) for base in bases)}
    assert "encryption_key" in shown[own]
    for base in bases:
        item = shown[str(base.id)]
        assert "encryption_key" not in item, "clients know a base experiment by that"
        assert item["ngc_path"] == f"nvidia/tao/pretrained_fan_classification_imagenet:{base.version}"
        assert item["public"] and item["read_only"] and item["network_arch"] == NETWORK
        assert ann.client.get(f"experiments/{base.id}").json() == item
    only_own = ann.client.get("experiments?user_only=true").json()
    assert [item["id"] for item in only_own] == [own]
    read_only = {item["id"] for item in ann.client.get("experiments?read_only=true").json()}
    assert read_only == {str(base.id) for base in bases}
    assert ann.client.get("experiments?network_arch=!classification_pyt").json() == []


def test_clients_of_5_5_ask_for_them_apart(facade: Facade, bases: list[BaseExperiment]) -> None:
    ben = facade.member(user="ben", release="5.5", root="orgs")
    own = ben.experiment()
    assert [item["id"] for item in ben.client.get("experiments").json()["experiments"]] == [own]
    found = ben.client.get(f"./experiments:base?network_arch={NETWORK}&sort=date-ascending").json()
    assert [item["id"] for item in found["experiments"]] == [str(base.id) for base in bases]
    assert ben.client.get("./experiments:base?network_arch=dino").json()["experiments"] == []


def test_an_experiment_starts_from_one(ann: Member, bases: list[BaseExperiment]) -> None:
    experiment_id = ann.experiment(base_experiment=[str(bases[0].id)])
    assert ann.client.get(f"experiments/{experiment_id}").json()["base_experiment"] == [str(bases[0].id)]
    record = ann.facade.storage.read_json(layout.experiment(ann.org, experiment_id))
    assert record["base_experiment_ids"] == [str(bases[0].id)]


def test_nobody_changes_or_deletes_one_over_the_api(ann: Member, bases: list[BaseExperiment]) -> None:
    path = f"experiments/{bases[0].id}"
    for method, content in (("PATCH", '{"name": "mine"}'), ("PUT", '{"name": "mine"}'), ("DELETE", "")):
        assert ann.client.request(method, path, content=content).status_code == 400
    assert ann.post_job(path, "train").status_code == 404
    assert ann.client.get(path).status_code == 200


def test_what_is_no_weights_is_not_added(facade: Facade, tmp_path: Path, weights: Path) -> None:
    pickled = tmp_path / "x.pth"
    pickled.write_bytes(b"\x80\x04K\x01.")
    for file, name, network in ((pickled, "a", NETWORK), (weights, "../a", NETWORK), (weights, "a", "ocdnet")):
        with pytest.raises(InvalidInput):
            add(facade.storage, file, network=network, name=name, version="1")


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("own", [0, 1, 7])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_pages_of_both_kinds_never_overlap_and_miss_nothing(
    own: int, count: int, by_name: bool, ascending: bool
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    bases = [
        BaseExperiment(
            id=uuid4(),
            name=f"n{3 * i}",
            version="1",
            network=NETWORK,
            sha256="0" * 64,
            size_bytes=1,
            created_at=start + timedelta(hours=5 * i - 3),
        )
        for i in range(count)
    ]
    rows: list[dict[str, Any]] = [
        {"name": f"n{2 * i}", "at": start + timedelta(hours=2 * i), "id": uuid4()} for i in range(own)
    ]

    def key(row: dict[str, Any]) -> tuple[object, str]:
        return (row["name"] if by_name else row["at"], row["id"].hex)

    rows.sort(key=key, reverse=not ascending)

    def page(skip: int, size: int) -> list[Any]:
        window = Page(skip=skip, size=size, by_name=by_name, ascending=ascending)
        first = max(0, skip - len(bases))
        return merge_page(rows[first : skip + size], first, key, bases, window)

    whole = page(0, 100)
    keys = [
        base_experiments.sort_key(e, Page(by_name=by_name)) if isinstance(e, BaseExperiment) else key(e) for e in whole
    ]
    assert keys == sorted(keys, reverse=not ascending) and len(whole) == own + count
    for size in (1, 2, 3, 5):
        assert [e for skip in range(0, own + count + size, size) for e in page(skip, size)] == whole


def test_the_list_of_the_api_has_pages(ann: Member, bases: list[BaseExperiment]) -> None:
    own = [ann.experiment(name=name) for name in ("alpha", "zeta")]
    whole = ann.client.get("experiments?sort=name-ascending").json()
    assert [item["id"] for item in whole] == [own[0], *sorted(map(str, (b.id for b in bases))), own[1]]
    parts = [ann.client.get(f"experiments?sort=name-ascending&skip={skip}&size=1") for skip in range(4)]
    assert [item for part in parts for item in part.json()] == whole
    assert {part.headers["X-Pagination-Total"] for part in parts} == {"4"}
    assert json.loads(ann.client.get("experiments?skip=4").text) == []


def test_one_that_was_just_added_can_be_chosen_at_once(ann: Member, bases, weights: Path) -> None:
    ann.client.get("experiments")
    new = add(ann.facade.storage, weights, network=NETWORK, name="new", version="1")
    ann.experiment(base_experiment=[str(new.id)])
