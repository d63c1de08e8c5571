"""The Optuna study of a sweep: the one home of its trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from ..schemas.errors import NotFound
from .trials import Metric, Trial

#: Attributes of an Optuna trial: its row, and the sweep that it was taken over from.
_ROW, _FROM = "trainyard", "trainyard.warm_start"

_STATES = {"success": TrialState.COMPLETE, "failure": TrialState.FAIL, "pruned": TrialState.PRUNED}


class _Alone(JournalFileOpenLock):
    """No lock: the lock of the job lets only one controller in.

    Optuna's own lock file outlives a process that is killed, and the next one waits half a minute for it.
    """

    def __init__(self) -> None:
        super().__init__("")

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def open_storage(journal: Path, url: str | None = None) -> optuna.storages.BaseStorage:
    """Return the storage of a study: the journal file, or the database of the URL."""
    if url is not None:
        return optuna.storages.get_storage(url)
    _cut_half_written(journal)
    return _journal_storage(journal)


def _journal_storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=_Alone()))


class Study:
    """Reads and writes the rows of a sweep's trials. One process at a time may use it."""

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        metrics: Sequence[Metric],
        space: Mapping[str, BaseDistribution],
    ) -> None:
        self._space = dict(space)
        self._metrics = metrics
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize" if metric.maximize else "minimize" for metric in metrics],
            load_if_exists=True,
        )
        self._ids: dict[int, int] = {}
        self.trials: list[Trial] = []
        for frozen in self.optuna.get_trials(deepcopy=False):
            self._take_over(frozen)
        self.trials.sort(key=lambda trial: trial.number)

    def _take_over(self, frozen: FrozenTrial) -> None:
        if _ROW in frozen.user_attrs:
            trial = Trial.load(frozen.user_attrs[_ROW])
            self._ids[trial.number] = frozen.number
            self.trials.append(trial)
            if frozen.state is TrialState.RUNNING and trial.has_ended:
                self._tell(trial)
        elif frozen.state is TrialState.RUNNING:
            # The process was killed between the proposal and its row: nobody has seen it.
            self.optuna.tell(frozen.number, state=TrialState.FAIL)

    @property
    def seen(self) -> int:
        """Trials that a sampler can learn from."""
        return len(self.optuna.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]))

    def remember(self, name: str, value: object) -> None:
        self.optuna.set_user_attr(name, value)

    def recall(self, name: str) -> Any:
        return self.optuna.user_attrs.get(name)

    def propose(
        self, sampler: optuna.samplers.BaseSampler, point: Mapping[str, Any] | None
    ) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a new Optuna trial and its parameters; `point` says which, else the sampler does."""
        self.optuna.sampler = sampler
        if point is not None and not self.optuna.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            self.optuna.enqueue_trial(dict(point))
        asked = self.optuna.ask(self._space)
        return asked, asked.params

    def add(self, asked: optuna.Trial, trial: Trial) -> None:
        """Write the row of a new trial."""
        self._ids[trial.number] = asked.number
        self.trials.append(trial)
        asked.set_user_attr(_ROW, trial.dump())

    def save(self, trial: Trial, *, has_news: bool = False) -> None:
        """Write what has changed in the row of a trial, and its end when it has ended.

        `has_news` says that it has a value for epochs for which it had none.
        """
        handle = self._handle(trial)
        handle.set_user_attr(_ROW, trial.dump())
        if has_news and len(self._metrics) == 1:
            handle.report(trial.values[trial.done][0], trial.done)
        if trial.has_ended:
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        values = trial.values.get(trial.done) if trial.status == "success" else None
        self.optuna.tell(self._ids[trial.number], values, state=_STATES[trial.status], skip_if_finished=True)

    def _handle(self, trial: Trial) -> optuna.Trial:
        frozen = self.optuna.get_trials(deepcopy=False)[self._ids[trial.number]]
        return optuna.Trial(self.optuna, frozen._trial_id)

    def learn_from(self, source: str, trials: Iterable[FrozenTrial]) -> int:
        """Add the successful trials of another study that lie in this one's space; return how many.

        A second call for the same source adds nothing.
        """
        known = {t.user_attrs.get(_FROM) for t in self.optuna.get_trials(deepcopy=False)}
        if source in known:
            return 0
        added = 0
        for frozen in trials:
            if frozen.state is not TrialState.COMPLETE or len(frozen.values) != len(self._metrics):
                continue
            if any(
                name not in frozen.params or not _holds(kind, frozen.params[name]) for name, kind in self._space.items()
            ):
                continue
            self.optuna.add_trial(
                optuna.trial.create_trial(
                    params={name: frozen.params[name] for name in self._space},
                    distributions=self._space,
                    values=frozen.values,
                    user_attrs={_FROM: source},
                )
            )
            added += 1
        return added


def read_trials(name: str, source: Path | str) -> list[FrozenTrial]:
    """Return the trials of a study in a journal or in the database of a URL.

    Nothing is written: the search may still be running.

    Raises:
        NotFound: it is not there.
    """
    storage = optuna.storages.get_storage(source) if isinstance(source, str) else _journal_storage(source)
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except KeyError as error:  # Optuna's word for it
        raise NotFound(f"There is no study {name}.") from error


def _holds(kind: BaseDistribution, value: Any) -> bool:
    try:
        return kind._contains(kind.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _cut_half_written(journal: Path) -> None:
    """Cut off the line that a process was writing when it was killed: the next one would go on in it."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)
