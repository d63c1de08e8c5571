"""The document `aitems-trains-api`: its example, its parameters, and the signature that every request needs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, Member
from prefect_trainyard.api.services.accounts.signing import (
    create_signing_key,
    list_signing_keys,
    revoke_signing_key,
)
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import InvalidInput, NotFound
from support import poll, trainyard

#: As printed; what identifies things is different in every yard.
EXAMPLE = json.loads(
    """
{
"trains": [
{
"serviceId": "6wxgu******",
"type": "pop",
"hpConfig": {
"is_enabled": false
},
"version": "maqll******",
"status": "stopping",
"createdDate": "2024-07-30T11:25:36.558",
"inference": false
}
],
"offset": 0,
"limit": 1000
}
"""
)


class Signer:
    """A client that does what the manual of the gateway says, with nothing of ours."""

    def __init__(self, facade: Facade, org: str, user: str = "ann") -> None:
        settings = facade.settings
        self.url = facade.url
        self.access_key, self.secret = create_signing_key(settings.database_url, settings.secrets_key_file, org, user)

    def headers(self, uri: str, *, method: str = "GET", at: float | None = None) -> dict[str, str]:
        timestamp = str(int(1000 * (time.time() if at is None else at)))
        message = f"{method} {uri}\n{timestamp}\n{self.access_key}"
        digest = hmac.new(self.secret.encode(), message.encode(), hashlib.sha256).digest()
        return {
            "x-ncp-apigw-timestamp": timestamp,
            "x-ncp-iam-access-key": self.access_key,
            "x-ncp-apigw-signature-v2": base64.b64encode(digest).decode(),
            "Content-Type": "application/json",
        }

    def get(self, uri: str) -> httpx.Response:
        return httpx.get(self.url + uri, headers=self.headers(uri))

    def trains(self, service_id: str, query: str = "") -> list[dict[str, Any]]:
        answer = self.get(f"/api/v1/services/{service_id}/trains{query}")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["trains"])


@pytest.fixture
def signer(ann: Member) -> Signer:
    return Signer(ann.facade, ann.org)


def test_answer_has_the_shape_of_the_example_of_the_document(ann, signer) -> None:
    service_id = ann.ready()
    owner = f"experiments/{service_id}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    assert ann.client.post(f"{owner}/jobs/{job_id}:cancel").status_code == 200

    def stopping() -> dict[str, Any] | None:
        answer = signer.get(f"/api/v1/services/{service_id}/trains?isRecent=true")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        return dict(answer.json()) if answer.json()["trains"][0]["status"] == "stopping" else None

    answer = poll(stopping, "the train to be stopping", 30)
    created = answer["trains"][0]["createdDate"]
    assert len(created) == len("2024-07-30T11:25:36.558")
    age = datetime.now(UTC) - datetime.fromisoformat(created).replace(tzinfo=UTC)
    assert timedelta(0) <= age < timedelta(minutes=5)
    expected = json.loads(json.dumps(EXAMPLE))
    expected["trains"][0] |= {"serviceId": service_id, "version": job_id, "type": "train", "createdDate": created}
    assert answer == expected
    assert list(answer["trains"][0]) == list(EXAMPLE["trains"][0])


def test_path_of_the_table_of_the_document_answers_the_same(ann, signer) -> None:
    service_id = ann.ready()
    ann.start(f"experiments/{service_id}", "train")
    short, long = (signer.get(f"{prefix}/services/{service_id}/trains").json() for prefix in ("", "/api/v1"))
    assert short == long and len(long["trains"]) == 1


def test_offset_limit_and_is_recent_choose_among_the_trains(ann, signer) -> None:
    service_id = ann.ready()
    owner = f"experiments/{service_id}"
    first = ann.start(owner, "train", description="the first one")
    ann.finish(first)
    ann.wait(owner, first, "Done")
    second = ann.start(owner, "train")
    pruned = ann.start(owner, "prune", parent_job_id=first)
    retrained = ann.start(owner, "retrain", parent_job_id=pruned)
    newest_first = [retrained, second, first]
    assert [train["version"] for train in signer.trains(service_id)] == newest_first
    page = signer.get(f"/api/v1/services/{service_id}/trains?offset=1&limit=1").json()
    assert ([train["version"] for train in page["trains"]], page["offset"], page["limit"]) == ([second], 1, 1)
    recent = signer.trains(service_id, "?isRecent=true")
    assert [(train["type"], train["version"]) for train in recent] == [("retrain", retrained), ("train", second)]
    assert [train["status"] for train in signer.trains(service_id)] == ["waiting", "waiting", "done"]
    assert signer.trains(service_id)[2]["description"] == "the first one"


def test_train_knows_whether_its_model_or_one_made_from_it_has_predicted(ann, signer) -> None:
    dataset_id = ann.filled()
    service_id = ann.experiment(
        train_datasets=[dataset_id], eval_dataset=dataset_id, inference_dataset=ann.filled("raw")
    )
    owner = f"experiments/{service_id}"
    trained = ann.start(owner, "train")
    ann.finish(trained)
    ann.wait(owner, trained, "Done")
    exported = ann.start(owner, "export", parent_job_id=trained)
    ann.finish(exported, Action.EXPORT)
    ann.wait(owner, exported, "Done")
    predicted = ann.start(owner, "inference", parent_job_id=exported)
    assert signer.trains(service_id)[0]["inference"] is False
    ann.finish(predicted, Action.INFERENCE)
    ann.wait(owner, predicted, "Done")
    assert signer.trains(service_id)[0]["inference"] is True


def test_hp_config_shows_the_search_of_the_experiment(ann, signer) -> None:
    service_id = ann.ready()
    ann.start(f"experiments/{service_id}", "train")
    settings = {"automl_enabled": True, "automl_algorithm": "bayesian", "automl_max_recommendations": 20}
    changed = ann.client.patch(f"experiments/{service_id}", content=json.dumps({"automl_settings": settings}))
    assert changed.status_code == 200, changed.text
    config = signer.trains(service_id)[0]["hpConfig"]
    assert config == {"is_enabled": True, "algorithm": "bayesian", "max_recommendations": 20}
    more = {"automl_metrics": ["kpi", "loss"], "automl_max_seconds": 1.5, "epoch_multiplier": 2}
    changed = ann.client.patch(f"experiments/{service_id}", content=json.dumps({"automl_settings": more}))
    assert changed.status_code == 200, changed.text
    shown = signer.trains(service_id)[0]["hpConfig"]
    assert shown == {**config, "metrics": '["kpi", "loss"]', "max_seconds": "1.5", "epoch_multiplier": 2}


def test_next_update_is_the_next_run_of_a_schedule(ann, signer) -> None:
    service_id = ann.ready()
    prefect = ann.facade.prefect.client
    deployment = prefect.get("deployments/name/train/classification_pyt").json()
    job_id = ann.start(f"experiments/{service_id}", "train")
    at = datetime.now(UTC) + timedelta(hours=8)
    for hours in (24, 0):
        moment = (at + timedelta(hours=hours)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": moment}}
        parameters = {"org": ann.org, "experiment_id": service_id}
        body = {"parameters": parameters, "state": state}
        prefect.post(f"deployments/{deployment['id']}/create_flow_run", json=body).raise_for_status()

    def shown() -> str | None:
        [train] = signer.trains(service_id)
        assert train["version"] == job_id, "what is set for later is no request yet"
        return train.get("nextUpdateDate")

    assert poll(shown, "the next update", 30) == at.replace(tzinfo=None).isoformat(timespec="milliseconds")


def test_request_without_a_good_signature_is_refused(ann, signer) -> None:
    service_id = ann.ready()
    uri = f"/api/v1/services/{service_id}/trains"
    good = signer.headers(uri)
    other = Signer(ann.facade, ann.org)
    signature = good["x-ncp-apigw-signature-v2"]
    cases = {
        "nothing": {},
        "a token": {"Authorization": f"Bearer {ann.token}"},
        "no signature": {k: v for k, v in good.items() if "signature" not in k},
        "no time stamp": {k: v for k, v in good.items() if "timestamp" not in k},
        "no key": {k: v for k, v in good.items() if "access" not in k},
        "empty signature": good | {"x-ncp-apigw-signature-v2": ""},
        "no Base64": good | {"x-ncp-apigw-signature-v2": "%" * 44},
        "cut signature": good | {"x-ncp-apigw-signature-v2": base64.b64encode(b"short").decode()},
        "other characters": good | {"x-ncp-apigw-signature-v2": "é".encode("latin-1")},
        "flipped bit": good | {"x-ncp-apigw-signature-v2": ("B" if signature[0] == "A" else "A") + signature[1:]},
        "key of another": good | {"x-ncp-iam-access-key": other.access_key},
        "unknown key": good | {"x-ncp-iam-access-key": "A" * 20},
        "hostile key": good | {"x-ncp-iam-access-key": "' OR 1=1 --"},
        "other method": signer.headers(uri, method="POST"),
        "other path": signer.headers(f"/api/v1/services/{uuid4()}/trains"),
        "other query": signer.headers(f"{uri}?isRecent=true"),
        "changed time stamp": good | {"x-ncp-apigw-timestamp": str(int(good["x-ncp-apigw-timestamp"]) + 1)},
        "too old": signer.headers(uri, at=time.time() - 301),
        "too new": signer.headers(uri, at=time.time() + 310),
        "seconds": signer.headers(uri, at=time.time() / 1000),
        "negative": good | {"x-ncp-apigw-timestamp": "-100000000000"},
        "words": good | {"x-ncp-apigw-timestamp": "yesterday"},
        "other digits": good | {"x-ncp-apigw-timestamp": "٣" * 13},
    }
    for case, headers in cases.items():
        raw = [(k.encode(), v if isinstance(v, bytes) else v.encode("utf-8")) for k, v in headers.items()]
        answer = httpx.get(ann.facade.url + uri, headers=raw)
        assert answer.status_code == 401, case
        error = answer.json()["error"]
        assert (error["errorCode"], error["message"]) == ("200", "Authentication Failed"), case
        assert signer.secret not in answer.text
    assert httpx.get(ann.facade.url + uri, headers=good).status_code == 200


def test_signature_counts_once(ann, signer) -> None:
    uri = f"/api/v1/services/{ann.ready()}/trains"
    headers = signer.headers(uri, at=time.time() - 200)
    assert httpx.get(ann.facade.url + uri, headers=headers).status_code == 200
    again = httpx.get(ann.facade.url + uri, headers=headers)
    assert again.status_code == 401 and "used before" in again.json()["error"]["details"]
    # The last character holds two bits that say nothing: another text for the same bytes.
    text = headers["x-ncp-apigw-signature-v2"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = text[:42] + alphabet[alphabet.index(text[42]) ^ 1] + "="
    assert base64.b64decode(twin) == base64.b64decode(text)
    assert httpx.get(ann.facade.url + uri, headers=headers | {"x-ncp-apigw-signature-v2": twin}).status_code == 401


def test_services_of_others_and_none_at_all_answer_alike(ann, signer) -> None:
    eve = ann.facade.member(user="eve")
    foreign = eve.ready()
    answers = [signer.get(f"/api/v1/services/{i}/trains") for i in (foreign, str(uuid4()), "6wxgu", "%27")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["error"]["errorCode"] == "300"


def test_parameters_out_of_bounds_are_refused(ann, signer) -> None:
    service_id = ann.ready()
    for query in ("offset=-1", "offset=1e3", "limit=0", "limit=1001", "limit=", "isRecent=perhaps", f"offset={2**63}"):
        answer = signer.get(f"/api/v1/services/{service_id}/trains?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"]["errorCode"] == "100"


def test_signing_keys_are_listed_without_secrets_and_end_when_revoked(ann, signer) -> None:
    url = ann.facade.settings.database_url
    service_id = ann.ready()
    assert signer.trains(service_id) == []
    listed = next(key for key in list_signing_keys(url) if key.access_key == signer.access_key)
    assert (listed.org, listed.user) == (ann.org, "ann") and listed.last_used_at is not None
    assert signer.secret not in repr(listed)
    revoke_signing_key(url, signer.access_key)
    assert signer.get(f"/api/v1/services/{service_id}/trains").status_code == 401
    with pytest.raises(NotFound):
        revoke_signing_key(url, signer.access_key)
    with pytest.raises(InvalidInput):
        revoke_signing_key(url, "A' OR 1=1")
    with pytest.raises(NotFound):
        create_signing_key(url, ann.facade.settings.secrets_key_file, ann.org, "nobody")


def test_command_line_hands_out_keys_that_work_until_they_are_revoked(ann) -> None:
    settings = ann.facade.settings
    if settings.database_url != f"sqlite:///{settings.home}/catalog.db":
        pytest.skip("the command line would look into another catalog")
    home = ("--home", str(settings.home))
    made = json.loads(trainyard("signing-keys", "create", "--org", ann.org, "--user", "ann", *home).stdout)
    signer = Signer(ann.facade, ann.org)
    signer.access_key, signer.secret = made["access_key"], made["secret_key"]
    assert signer.trains(ann.experiment()) == []
    listed = trainyard("signing-keys", "list", *home).stdout
    assert made["access_key"] in listed and made["secret_key"] not in listed
    trainyard("signing-keys", "revoke", made["access_key"], *home)
    assert signer.get(f"/api/v1/services/{uuid4()}/trains").status_code == 401
