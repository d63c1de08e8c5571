"""Uploads of any size take the facade no memory."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest
from support import Yard

SIZE_BYTES = 2 << 30
RISE_MAX_BYTES = 64 << 20
CHUNK = bytes(1 << 20)


@pytest.mark.slow
def test_two_gibibytes_pass_through_64_mebibytes(yard: Yard) -> None:
    with yard.client() as client:
        made = client.post("datasets", json={"type": "image_classification", "format": "classification_pyt"})
        dataset_id = made.json()["id"]
        token = client.headers["Authorization"]
        facade = psutil.Process(json.loads((yard.home / "run" / "yard.json").read_text())["parts"]["api"]["pid"])
        before = facade.memory_info().rss
        most = before
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="set.tar"\r\n\r\n'
        tail = b"\r\n--b--\r\n"

        def body() -> Iterator[bytes]:
            nonlocal most
            yield head
            for _ in range(SIZE_BYTES // len(CHUNK)):
                most = max(most, facade.memory_info().rss)
                yield CHUNK
            yield tail

        parts = urlsplit(yard.api_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=250)
        connection.request(
            "POST",
            f"/api/v1/orgs/acme/datasets/{dataset_id}:upload",
            body(),
            {
                "Authorization": token,
                "Content-Type": "multipart/form-data; boundary=b",
                "Content-Length": str(len(head) + SIZE_BYTES + len(tail)),
            },
        )
        answer = connection.getresponse()
        most = max(most, facade.memory_info().rss)
        # It is no archive, which is known when all of it is there.
        assert answer.status == 400, answer.read()
        connection.close()
        assert most - before < RISE_MAX_BYTES, f"{(most - before) >> 20} MiB"
        assert client.get(f"datasets/{dataset_id}").json()["status"] == made.json()["status"]
        assert not [file for file in (yard.home / "incoming").rglob("*") if file.is_file()]
