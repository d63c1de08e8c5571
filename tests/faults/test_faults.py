"""A short run of the fault harness, and proof that it sees what it is there to see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from faults.points import COMPONENTS, PHASES, plan
from faults.run import run_points
from faults.watch import Watch
from rich.console import Console
from support import poll

POINTS, SEED = 20, 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killing_parts_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    report = run_points(tmp_path, plan(POINTS, Random(SEED)), SEED, epochs=20)
    report.show(Console(width=150))
    assert report.points == POINTS
    assert report.violations == []


def test_every_pair_of_component_and_phase_comes_up_equally_often() -> None:
    points = plan(2 * len(COMPONENTS) * len(PHASES), Random(1))
    assert {points.count(point) for point in points} == {2}
    assert {point.phase for point in plan(9, Random(1), {"worker"})} == set(PHASES)


def start_sleeper(folder: Path, **options: bool) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", "input()"], cwd=folder, stdin=subprocess.PIPE, **options)


def test_the_watch_sees_two_processes_of_one_job(tmp_path: Path) -> None:
    job = tmp_path / "home" / "work" / "0b2f9a52-3c5e-4a3c-9a0c-5f6f0f8f7c11"
    with Watch(job.parent) as watch:
        leaders = [start_sleeper(job, start_new_session=True)]
        poll(lambda: watch.leader(job.name), "the first process", 30)
        helper = start_sleeper(job)
        poll(lambda: len(watch.running()[job.name]) == 2, "its helper", 30)
        assert watch.violations == []
        leaders.append(start_sleeper(job, start_new_session=True))
        poll(lambda: watch.violations, "the double run to be seen", 30)
        for process in (*leaders, helper):
            process.communicate(b"\n")
        poll(lambda: not watch.running(), "the end of all", 30)
    assert [(kind, run_id) for kind, run_id, _ in watch.violations] == [("double run", job.name)]


def test_the_watch_sees_a_log_that_loses_lines(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    with Watch(tmp_path) as watch:
        for log in (good, bad):
            log.write_text("one\ntwo\nError EOF\n")
            watch.follow(log)
        seen = watch.looks + 20
        poll(lambda: watch.looks > seen, "a look at the logs", 30)
        good.write_text("one\ntwo\nthree\n")
        bad.write_text("one\nthree\n")
        poll(lambda: watch.violations, "the lost line to be seen", 30)
    assert [name for _, name, _ in watch.violations] == ["bad"]
