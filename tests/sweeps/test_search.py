"""Searches in a world where training takes no time; see `world`."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from prefect_trainyard.schemas.errors import InvalidInput, NotFound
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.conduct import conduct
from prefect_trainyard.sweeps.search import Search
from prefect_trainyard.sweeps.study import Study, open_storage, read_trials
from prefect_trainyard.sweeps.trials import Metric
from sweeps.world import ACCURACY, Killed, Plane, Trainer, World, accuracy, live, open_search

ALGORITHMS = ["bayesian", "tpe", "random", "grid", "cmaes", "hyperband", "asha"]


def settings(algorithm: str, **more: Any) -> SweepSettings:
    given = {"max_trials": 12, "max_epochs": 9, "max_concurrent": 1, "seed": 3} | more
    return SweepSettings.model_validate({"algorithm": algorithm, **given})


class Numbers(Plane):
    distributions: Mapping[str, BaseDistribution] = {
        "lr": Plane.distributions["lr"],
        "wd": optuna.distributions.FloatDistribution(0, 1),
    }


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "cmaes"])
def test_a_search_ends_and_finds_something_better_than_the_spec(algorithm: str, tmp_path: Path) -> None:
    world = World()
    search = live(tmp_path, settings(algorithm), world)
    assert not search.active and search.best is not None
    assert search.best.values[search.best.done][0] > accuracy(Plane().defaults(), 9)
    assert all(trial.status in ("success", "pruned") for trial in search.trials)
    for trial in search.trials:
        assert world.epochs[trial.number] == list(range(1, trial.done + 1)), "an epoch was trained twice or never"
    expected = {"grid": 6, "hyperband": 9 + 3 + 3}.get(algorithm, 12)
    assert len(search.trials) == expected


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "tpe", "grid", "hyperband", "asha"])
def test_killed_anywhere_it_goes_on_with_the_same_trials(algorithm: str, tmp_path: Path) -> None:
    wanted = settings(algorithm, max_trials=6)
    undisturbed = World()
    (tmp_path / "whole").mkdir()
    whole = live(tmp_path / "whole", wanted, undisturbed)
    rows = {(t.number, t.status, t.done, tuple(sorted(t.params.items()))) for t in whole.trials}
    for moment in range(1, undisturbed.moments + 1):
        world, folder = World(), tmp_path / str(moment)
        folder.mkdir()
        world.kill_at = moment
        with pytest.raises(Killed):
            live(folder, wanted, world)
        search = live(folder, wanted, world)
        assert {(t.number, t.status, t.done, tuple(sorted(t.params.items()))) for t in search.trials} == rows
        assert world.epochs == undisturbed.epochs and world.ended >= undisturbed.ended


def test_killed_again_and_again(tmp_path: Path) -> None:
    wanted, world, kills = settings("asha", max_concurrent=4), World(), 0
    while True:
        world.kill_at = world.moments + 17
        try:
            search = live(tmp_path, wanted, world)
            break
        except Killed:
            kills += 1
    assert kills > 5 and len(search.trials) == 12 and not search.active
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in world.epochs.values())


def test_a_database_holds_the_study_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    wanted, rows = settings("asha", max_trials=5), []
    for name in ("one", "other"):
        for moment in (9, 25, None):
            world = World()
            world.kill_at = moment
            study = Study(open_storage(tmp_path / "none", url), name, [ACCURACY], Plane.distributions)
            search = Search(study, Plane(), wanted, [ACCURACY], 9)
            trainer = Trainer(world, search)
            with contextlib.suppress(Killed):
                trainer.take_up()
                conduct(search, trainer, is_stopping=lambda: False, tell=world.moment)
        rows.append([(trial.params, trial.status, trial.done) for trial in search.trials])
    assert rows[0] == rows[1] and len(rows[0]) == 5 and not (tmp_path / "none").exists()


def test_a_line_that_was_being_written_is_cut_off(tmp_path: Path) -> None:
    live(tmp_path, settings("random", max_trials=3), World())
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"wor')
    search = live(tmp_path, settings("random", max_trials=5), World())
    assert len(search.trials) == 5 and journal.read_bytes().endswith(b"\n")


def test_the_study_of_a_search_that_still_runs_is_read_and_left_alone(tmp_path: Path) -> None:
    live(tmp_path, settings("random", max_trials=3), World())
    journal = tmp_path / "study.journal"
    content = journal.read_bytes() + b'{"op_code":4,"wor'
    journal.write_bytes(content)
    assert len(read_trials("sweep", journal)) == 3 and journal.read_bytes() == content
    with pytest.raises(NotFound, match="no study other"):
        read_trials("other", journal)


def test_a_finished_search_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    first = live(tmp_path, settings("tpe", max_trials=4), World())
    more = live(tmp_path, settings("tpe", max_trials=7), World())
    assert [t.params for t in more.trials[:4]] == [t.params for t in first.trials] and len(more.trials) == 7
    folder = tmp_path / "hyperband"
    folder.mkdir()
    world = World()
    small = live(folder, settings("hyperband", max_epochs=3), world)
    assert len(small.trials) == 3 + 2
    large = live(folder, settings("hyperband", max_epochs=9), world)
    assert Counter(t.horizon for t in large.trials) == {3: 5, 9: 9 + 3 + 3} and not large.active


def test_trials_that_fail_are_no_best_and_block_nobody(tmp_path: Path) -> None:
    world = World(fails=lambda number: number % 3 == 0)
    search = live(tmp_path, settings("hyperband", max_concurrent=5), world)
    assert not search.active and search.best is not None and search.best.number % 3
    assert {t.number for t in search.trials if t.status == "failure"} == set(range(0, 15, 3))
    assert not any(t.status == "paused" for t in search.trials)
    world = World(fails=lambda number: True)
    (tmp_path / "all").mkdir()
    nothing = live(tmp_path / "all", settings("asha"), world)
    assert nothing.best is None and not nothing.active and nothing.progress(1).epochs_left == 0


def test_it_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    search = live(tmp_path, settings("random", max_trials=100, patience=4, start_from_spec=False), World())
    best = search.best
    assert best is not None and len(search.trials) == best.number + 5
    assert "No better trial" in str(search.why_ended())


def test_it_ends_when_the_money_is_spent(tmp_path: Path) -> None:
    # 9 s a trial at 400 an hour: 1 each.
    search = live(tmp_path, settings("random", max_trials=100, max_cost=5, cost_per_hour=400), World())
    assert len(search.trials) == 5 and "cost" in str(search.why_ended())


def test_trials_that_end_with_the_search_say_why(tmp_path: Path) -> None:
    # An epoch costs 1: the 9 trials of the first rung, then 2 epochs more of the best of them.
    search = live(tmp_path, settings("hyperband", max_cost=10, cost_per_hour=3600), World())
    assert Counter((trial.status, trial.message) for trial in search.trials) == {
        ("pruned", "Others were better after 1 epochs."): 6,
        ("pruned", "The trials cost 11 of 10."): 3,
    }


def test_it_ends_when_the_time_is_over_also_across_attempts(tmp_path: Path) -> None:
    live(tmp_path, settings("random", max_trials=2), World())
    search = live(tmp_path, settings("random", max_trials=50, max_seconds=1e-9), World())
    assert len(search.trials) == 2 and "time" in str(search.why_ended())


def test_the_time_of_an_attempt_that_was_killed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr("prefect_trainyard.sweeps.search.time", SimpleNamespace(monotonic=lambda: next(hours)))
    world = World()
    world.kill_at = 21  # in the middle of the fourth of five trials
    with pytest.raises(Killed):
        live(tmp_path, settings("random", max_trials=5), world)
    assert len(world.epochs) == 4
    search = live(tmp_path, settings("random", max_trials=5, max_seconds=3 * 3600), world)
    assert [trial.status for trial in search.trials] == ["success"] * 4


def test_a_warm_start_learns_and_is_no_trial_of_its_own(tmp_path: Path) -> None:
    live(tmp_path, settings("random", max_trials=8), World())
    trials = read_trials("sweep", tmp_path / "study.journal")
    journal = tmp_path / "second.journal"
    study = Study(open_storage(journal), "second", [ACCURACY], Plane.distributions)
    assert study.learn_from("first", trials) == 8 and study.learn_from("first", trials) == 0
    assert study.trials == [] and study.seen == 8
    again = Study(open_storage(journal), "second", [ACCURACY], Plane.distributions)
    assert again.learn_from("first", trials) == 0 and again.seen == 8
    narrow = {"lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)}
    inside = [t for t in trials if 1e-3 <= t.params["lr"] <= 1e-1]
    third = Study(open_storage(tmp_path / "third.journal"), "third", [ACCURACY], narrow)
    assert 0 < len(inside) < 8 and third.learn_from("first", trials) == len(inside)


def test_samplers_optimise_choices_and_do_not_draw_them_at_random(tmp_path: Path) -> None:
    for algorithm in ("bayesian", "tpe"):
        folder = tmp_path / algorithm
        folder.mkdir()
        search = live(folder, settings(algorithm, max_trials=40, start_from_spec=False), World())
        late = Counter(t.params["kind"] for t in search.trials[20:])
        assert late["b"] >= 12, (algorithm, late)  # 7 of 20 would be by chance


def test_trials_at_once_are_not_all_the_same(tmp_path: Path) -> None:
    wanted = settings("bayesian", max_trials=16, max_concurrent=8)
    search = open_search(tmp_path, wanted)
    started = [search.next() for _ in range(8)]
    rates = [trial.params["lr"] for trial in started if trial is not None]
    assert len(rates) == 8 and len(set(rates)) == 8


def test_two_metrics(tmp_path: Path) -> None:
    metrics = (ACCURACY, Metric("loss", maximize=False))
    wanted = settings("nsga2", metrics=["accuracy", "loss"], max_trials=10)
    search = open_search(tmp_path, wanted, metrics=metrics)
    while (trial := search.next()) is not None:
        value = accuracy(trial.params, 9)
        search.answered(trial, [value, 1 - value], results={}, best_epoch=9, seconds=1)
    assert len(search.trials) == 10 and len(read_trials("sweep", tmp_path / "study.journal")[0].values) == 2


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (settings("nsga2"), "several metrics"),
        (settings("tpe", metrics=["a", "b"]), "one metric"),
        (settings("cmaes"), "kind"),
    ],
)
def test_an_algorithm_that_does_not_fit_is_refused(wanted: SweepSettings, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=says):
        open_search(tmp_path, wanted)


def test_cmaes_on_numbers(tmp_path: Path) -> None:
    space = Numbers()
    study = Study(open_storage(tmp_path / "study.journal"), "numbers", [ACCURACY], space.distributions)
    search = Search(study, space, settings("cmaes", max_trials=30), [ACCURACY], 3)
    space.defaults = lambda: {"lr": 1e-4, "wd": 0.5}  # type: ignore[method-assign]
    values = []
    while (trial := search.next()) is not None:
        values.append(-abs(trial.params["wd"] - 0.25))
        search.answered(trial, [values[-1]], results={}, best_epoch=3, seconds=1)
    assert len(values) == 30 and sum(values[15:]) > sum(values[:15])


def test_progress_counts_what_is_left(tmp_path: Path) -> None:
    search = open_search(tmp_path, settings("hyperband"))
    assert search.fraction == 0.0
    # R = 9: (9 x 1, 3 x 3, 1 x 9), (3 x 3, 1 x 9), (3 x 9): epochs that nobody has begun.
    assert search.progress(1).epochs_left == (9 + 3 * 2 + 6) + (9 + 6) + 27
    done = live(tmp_path, settings("hyperband"), World())
    told = done.progress(1)
    assert told.epochs_left == 0 and done.fraction == 1.0
    assert told.trials == {"success": 5, "pruned": 10} and told.seconds_per_epoch == 1.0
    assert told.best_trial == (done.best.number if done.best else None)
