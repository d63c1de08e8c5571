"""Logs while they are written: no line lost, none twice, whoever goes away in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from facade_support import Facade, Member, free_port, serve
from prefect_trainyard.api.services.files import follow
from prefect_trainyard.api.services.files.follow import Cursor, LogReader
from prefect_trainyard.api.services.files.joblog import end_log, reopen_log, start_log
from prefect_trainyard.blocks import ArtifactStorage, layout
from prefect_trainyard.deployments.supervisor import answers
from prefect_trainyard.schemas.states import JobState
from support import poll

ORG = "acme"


class Follower:
    """A client that follows a log from a thread of its own."""

    def __init__(self, member: Member, path: str, **query: str) -> None:
        self.events: list[dict[str, str]] = []
        self.comments: list[str] = []
        self.status_code = 0
        self.headers = httpx.Headers()
        self._stop = False
        self._request = member.client.build_request(
            "GET", path, params={"follow": "true", **query}, timeout=httpx.Timeout(10, read=30)
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client() as client:
            answer = client.send(self._request, stream=True)
            self.status_code, self.headers = answer.status_code, answer.headers
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if not line and fields:
                    self.events.append(fields)
                    fields = {}
                elif line.startswith(":"):
                    self.comments.append(line)
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name.rstrip(":")] = value
                if self._stop:
                    break
            answer.close()

    @property
    def lines(self) -> list[str]:
        return [event["data"] for event in self.events if "id" in event]

    @property
    def last_id(self) -> str:
        return [event["id"] for event in self.events if "id" in event][-1]

    @property
    def has_ended(self) -> bool:
        return any(event.get("event") == "end" for event in self.events)

    def wait_for(self, count: int) -> list[str]:
        poll(lambda: len(self.lines) >= count, f"{count} lines", 30)
        return self.lines

    def wait_for_end(self) -> list[str]:
        poll(lambda: self.has_ended and not self._thread.is_alive(), "the end of the log", 30)
        return self.lines

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Go away; the connection closes with the next byte that comes."""
        self._stop = True


@contextmanager
def running_job(member: Member) -> Iterator[tuple[str, str, str]]:
    """Give a running job: its owner, its id and where its log lies."""
    owner = f"experiments/{member.ready()}"
    job_id = member.start(owner, "train")
    member.facade.prefect.move(job_id, "RUNNING")
    member.wait(owner, job_id, "Running")
    yield owner, job_id, layout.log(member.org, job_id)


def append(member: Member, path: str, *lines: str) -> None:
    member.facade.storage.append_text(path, "".join(f"{line}\n" for line in lines))


def test_lines_come_as_they_are_written_until_the_last(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        before = len(follower.wait_for(1))
        append(ann, path, "one", "two  with  spaces", "")
        assert follower.wait_for(before + 3)[before:] == ["one", "two  with  spaces", ""]
        assert follower.headers["content-type"].startswith("text/event-stream")
        assert follower.headers["cache-control"] == "no-store"
        ann.finish(job_id)
        lines = follower.wait_for_end()
        assert lines[-1] == "Done EOF" and lines.count("one") == 1
        assert "\n".join([*lines, ""]) == ann.client.get(f"{owner}/jobs/{job_id}/logs").text


def test_half_a_line_waits_for_its_rest(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        append(ann, path, "whole")
        ann.facade.storage.append_text(path, "half ")
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        count = len(follower.wait_for(1))
        poll(lambda: "whole" in follower.lines, "the whole line")
        ann.facade.storage.append_text(path, "and half\n")
        poll(lambda: "half and half" in follower.lines, "the rest")
        assert "half " not in follower.lines and len(follower.lines) == count + len(follower.lines) - count
        follower.stop()
        append(ann, path, "bye")


@pytest.mark.parametrize("header", [True, False])
def test_a_client_that_comes_back_goes_on_where_it_was(ann, header: bool) -> None:
    with running_job(ann) as (owner, job_id, path):
        append(ann, path, *(f"line {n}" for n in range(50)))
        answer = ann.client.get(f"{owner}/jobs/{job_id}/logs").text
        first = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        first.wait_for(len(answer.splitlines()))
        ids = [event["id"] for event in first.events if "id" in event]
        place = ids[first.lines.index("line 20")]
        append(ann, path, "line 50")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        if header:
            ann.client.headers["Last-Event-ID"] = place
        again = Follower(ann, f"{owner}/jobs/{job_id}/logs", **({} if header else {"cursor": place}))
        assert again.wait_for_end() == [*(f"line {n}" for n in range(21, 51)), "Done EOF"]
        assert first.wait_for_end()[-31:] == again.lines


def test_offsets_of_the_plain_text_are_cursors_too(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        append(ann, path, "before", "after")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        text = ann.client.get(f"{owner}/jobs/{job_id}/logs").content
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs", cursor=str(text.index(b"after")))
        assert follower.wait_for_end() == ["after", "Done EOF"]
        beyond = Follower(ann, f"{owner}/jobs/{job_id}/logs", cursor=str(len(text)))
        append(ann, path, "more")
        assert beyond.wait_for(1) == ["more"]
        beyond.stop()
        append(ann, path, "Error EOF")


@pytest.mark.parametrize("cursor", ["x", "-1", "12-", "0x10", "1" * 41])
def test_refuses_a_bad_cursor(ann, cursor: str) -> None:
    with running_job(ann) as (owner, job_id, _):
        answer = ann.client.get(f"{owner}/jobs/{job_id}/logs", params={"follow": "true", "cursor": cursor})
        assert answer.status_code == 400 and "cursor" in answer.json()["error_desc"]


def test_a_resumed_job_goes_on_in_the_same_log(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        append(ann, path, "attempt one")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.CANCELLED)
        first = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        before = first.wait_for_end()
        assert before[-2:] == ["attempt one", "Error EOF"]
        reopen_log(ann.facade.storage, ann.org, UUID(job_id), "Resumed by the user.")
        again = Follower(ann, f"{owner}/jobs/{job_id}/logs", cursor=first.last_id)
        append(ann, path, "attempt two")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        assert again.wait_for_end() == ["Resumed by the user.", "attempt two", "Done EOF"]


def rotate(storage: ArtifactStorage, org: str, job_id: str) -> None:
    path, earlier = layout.log(org, job_id), layout.earlier_log(org, job_id)
    storage.write_bytes(earlier, storage.read_bytes(path))
    storage.remove(path)


def test_a_rotated_log_is_one_text_and_loses_no_line(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        before = len(follower.wait_for(1))
        written = []
        for segment in range(3):
            for number in range(10):
                append(ann, path, f"{segment}-{number}")
                written.append(f"{segment}-{number}")
            if segment:
                follower.wait_for(before + 10 * (segment - 1))
            rotate(ann.facade.storage, ann.org, job_id)
            # The rest of the rotated segment and the start of the new one are found together.
            append(ann, path, f"first of {segment + 1}")
            written.append(f"first of {segment + 1}")
            follower.wait_for(before + len(written))
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        assert follower.wait_for_end()[before:] == [*written, "Done EOF"]
        assert not any("missing" in comment for comment in follower.comments)
        text = ann.client.get(f"{owner}/jobs/{job_id}/logs").text.splitlines()
        assert text == ["first of 2", *(f"2-{n}" for n in range(10)), "first of 3", "Done EOF"]
        late = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        assert late.wait_for_end() == text


def test_a_follower_that_missed_a_whole_segment_is_told_so(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        follower.wait_for(1)
        place = follower.last_id
        follower.stop()
        for segment in range(2):
            append(ann, path, f"segment {segment}")
            rotate(ann.facade.storage, ann.org, job_id)
        append(ann, path, "now")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        again = Follower(ann, f"{owner}/jobs/{job_id}/logs", cursor=place)
        assert again.wait_for_end() == ["segment 1", "now", "Done EOF"]
        assert any("missing" in comment for comment in again.comments)


def test_quiet_logs_show_signs_of_life_and_clients_that_leave_free_their_place(ann, monkeypatch) -> None:
    monkeypatch.setattr(follow, "QUIET_S", 0.2)
    with running_job(ann) as (owner, job_id, _):
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        poll(lambda: len(follower.comments) >= 2, "signs of life", 30)
        service = ann.facade.app.state.services.follow
        assert service.count(ann.org) == 1
        follower.stop()
        poll(lambda: service.count(ann.org) == 0, "the place to be free", 30)


def test_who_loses_the_right_to_read_loses_the_stream(ann, monkeypatch) -> None:
    monkeypatch.setattr(follow, "QUIET_S", 0.2)
    from prefect_trainyard.api.services.accounts.keys import list_keys, revoke_key

    with running_job(ann) as (owner, job_id, _):
        follower = Follower(ann, f"{owner}/jobs/{job_id}/logs")
        follower.wait_for(1)
        database_url = ann.facade.settings.database_url
        (key,) = [key for key in list_keys(database_url) if key.org == ann.org]
        revoke_key(database_url, str(key.id))
        poll(lambda: ann.facade.app.state.services.follow.count(ann.org) == 0, "the stream to end", 30)
        assert not follower.has_ended


def test_each_org_follows_so_many_logs_and_no_more(ann, monkeypatch) -> None:
    service = ann.facade.app.state.services.follow
    monkeypatch.setattr(service, "_most_per_org", 2)
    with running_job(ann) as (owner, job_id, path):
        followers = [Follower(ann, f"{owner}/jobs/{job_id}/logs") for _ in range(2)]
        for follower in followers:
            follower.wait_for(1)
        refused = ann.client.get(f"{owner}/jobs/{job_id}/logs", params={"follow": "true"})
        assert refused.status_code == 429 and "2 logs" in refused.json()["error_desc"]
        assert ann.client.get(f"{owner}/jobs/{job_id}/logs").status_code == 200
        append(ann, path, "Error EOF")
        for follower in followers:
            follower.wait_for_end()
        assert service.count(ann.org) == 0


def test_logs_of_others_are_not_there(ann, facade: Facade) -> None:
    with running_job(ann) as (owner, job_id, _):
        eve = facade.member()
        answer = eve.client.get(f"{owner}/jobs/{job_id}/logs", params={"follow": "true"})
        assert answer.status_code == 404


def test_a_server_that_stops_lets_its_followers_go(facade: Facade, ann) -> None:
    with running_job(ann) as (owner, job_id, _):
        for again in serve(facade.settings, facade.prefect):
            client = httpx.Client(
                base_url=str(ann.client.base_url).replace(facade.url, again.url), headers=ann.client.headers
            )
            member = Member(again, ann.org, ann.user_id, ann.token, client)
            follower = Follower(member, f"{owner}/jobs/{job_id}/logs")
            follower.wait_for(1)
            again.app.state.services.follow.close()
            follower.join()
            assert not follower.has_ended and follower.status_code == 200


def test_the_process_of_the_facade_stops_though_somebody_follows(facade: Facade, ann) -> None:
    settings = facade.settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD_")} | {
        "TRAINYARD_API_HOME": str(settings.home),
        "TRAINYARD_API_DATABASE_URL": settings.database_url,
        "TRAINYARD_API_PREFECT_API_URL": settings.prefect_api_url,
    }
    port = free_port()
    command = [sys.executable, "-m", "prefect_trainyard.api", "--port", str(port)]
    with running_job(ann) as (owner, job_id, _):
        process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{port}"
            poll(lambda: answers(f"{url}/api/v1/liveness"), "the facade", 60)
            base_url = str(ann.client.base_url).replace(facade.url, url)
            member = replace(ann, client=httpx.Client(base_url=base_url, headers=ann.client.headers))
            follower = Follower(member, f"{owner}/jobs/{job_id}/logs")
            follower.wait_for(1)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
        follower.join()
        assert process.returncode in (0, -signal.SIGTERM)
        assert "graceful shutdown exceeded" not in said and "Traceback" not in said


def test_log_in_an_s3_storage_is_followed_through_rotation_and_reopening(s3_storage: ArtifactStorage) -> None:
    check_reader(s3_storage)


def test_log_in_a_folder_is_followed_through_rotation_and_reopening(tmp_path: Path) -> None:
    check_reader(ArtifactStorage(url=str(tmp_path)))


def check_reader(storage: ArtifactStorage) -> None:
    job_id = uuid4()
    path = layout.log(ORG, job_id)
    start_log(storage, ORG, job_id, "Waiting for a worker.")
    start_log(storage, ORG, job_id, "Waiting for a worker.")
    reader = LogReader(storage, ORG, job_id, None)

    def read(reader: LogReader) -> list[str]:
        lines: list[str] = []
        while found := reader.read():
            lines += [line.text for line in found]
        return lines

    assert read(reader) == ["Waiting for a worker."] and read(reader) == []
    storage.append_text(path, "2026-01-01 one\r\npart")
    assert read(reader) == ["2026-01-01 one"]
    storage.append_text(path, "ly\nlast of the first\n")
    rotate(storage, ORG, str(job_id))
    storage.append_text(path, "2026-01-02 new segment\n")
    assert read(reader) == ["partly", "last of the first", "2026-01-02 new segment"]
    assert read(LogReader(storage, ORG, job_id, None))[0] == "Waiting for a worker."
    end_log(storage, ORG, job_id, JobState.FAILED, "The disk\nwas full.")
    end_log(storage, ORG, job_id, JobState.FAILED)
    (reason, end) = reader.read()
    assert (reason.text, end.text, end.ends) == ("The disk was full.", "Error EOF", True)
    reopen_log(storage, ORG, job_id, "Resumed.")
    assert read(LogReader(storage, ORG, job_id, Cursor.parse(str(end.cursor)))) == ["Resumed."]
    storage.append_text(path, "x" * (3 << 20) + "\nshort\n")
    long = read(reader := LogReader(storage, ORG, job_id, end.cursor))
    assert "".join(long[1:-1]) == "x" * (3 << 20) and long[-1] == "short"
    assert not reader.lost


def test_lines_that_look_like_the_end_do_not_end_a_log(tmp_path: Path) -> None:
    storage, job_id = ArtifactStorage(url=str(tmp_path)), uuid4()
    storage.append_text(layout.log(ORG, job_id), "Done EOF\nsaid: Done EOF\nError EOF \n")
    assert [line.ends for line in LogReader(storage, ORG, job_id, None).read()] == [False, False, False]
    end_log(storage, ORG, job_id, JobState.DONE)
    assert [line.ends for line in LogReader(storage, ORG, job_id, None).read()] == [False, False, False, True]


def test_selected_files_have_both_parts_of_the_log(ann) -> None:
    with running_job(ann) as (owner, job_id, path):
        rotate(ann.facade.storage, ann.org, job_id)
        append(ann, path, "second part")
        text = ann.client.get(f"{owner}/jobs/{job_id}/logs").content
        query: dict[str, Any] = {"file_lists": [f"logs/{job_id}.txt"], "tar_files": "False"}
        picked = ann.client.get(f"{owner}/jobs/{job_id}:download_selective_files", params=query)
        assert picked.content == text and text.endswith(b"second part\n") and text.count(b"\n") == 2
        listed = ann.client.get(f"{owner}/jobs/{job_id}:list_files", params={"retrieve_logs": "true"})
        assert json.loads(listed.text) == [f"logs/{job_id}.txt"]
