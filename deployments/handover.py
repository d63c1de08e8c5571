"""Finds runs whose worker is gone and gives them back to the queue, or ends them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID

from prefect.logging import get_logger

from ..schemas.attempts import WORKER_LABEL
from ..schemas.errors import Unavailable, YardError
from .ends import Loss, settle
from .prefect_runs import Beats, PrefectRuns, Run
from .processes import is_forkserver_among, is_gone, is_on, kill, leftovers, this_machine
from .scratch import default_root, finish_log, spools_of

logger = get_logger("trainyard.handover")

#: Seconds between two looks of a reaper.
LOOK_S = 5.0
#: A worker of another machine that the server has not heard of for so long is lost.
LOST_AFTER_S = 20.0
#: A run that some worker has taken, but whose process nobody has started for so long, is given back.
UNOWNED_S = 30.0
#: The forkserver of a dead worker gets so long to end its runs and to give them back by itself.
_LAST_WILL_S = 15.0
#: Another reaper of this machine that has looked so recently spares us the look.
_FRESH_S = 0.8 * LOOK_S
_PATIENCE_S = 10.0


async def give_back_by_id(run_ids: Mapping[UUID, Path], cause: str) -> None:
    """Give back the runs of a worker that has just died; each comes with the spool of its log."""
    runs = PrefectRuns.of_settings(patience_s=_PATIENCE_S)
    try:
        for run_id, spool in run_ids.items():
            try:
                await finish_log(spool)
                await settle(runs, await runs.read(run_id), Loss(cause=cause))
            except YardError as error:
                # The next reaper finds the run by its label.
                logger.warning("Flow run '%s' could not be given back: %s", run_id, error)
    finally:
        await runs.close()


class Reaper:
    """Looks for runs that nobody works on any more.

    A worker of this machine is lost when its process is gone. One of another machine is lost when the server, by its
    own clock, has not heard of it for 20 s, and this reaper has been in touch with the server for as long: after an
    outage everybody's last heartbeat is old. `look` is to be called every `LOOK_S` seconds; of several reapers on a
    machine one at a time looks. It never raises for a server that is away; it looks again the next time.
    """

    def __init__(
        self,
        api_url: str,
        auth_string: str | None,
        work_pool: str,
        *,
        runs: PrefectRuns | None = None,
        machine: str | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._runs = runs or PrefectRuns(api_url, auth_string=auth_string, patience_s=_PATIENCE_S)
        self._work_pool = work_pool
        self._machine = machine or this_machine()
        self._scratch = scratch or default_root()
        mark = hashlib.sha256(f"{api_url} {work_pool} {self._machine}".encode()).hexdigest()[:16]
        self._lock_file = Path(tempfile.gettempdir()) / f"trainyard-reaper-{os.getuid()}-{mark}.lock"
        self._in_touch_since: float | None = None
        self._looked_at = 0.0
        #: When a run was first seen in a state without an owner, by run and state.
        self._unowned: dict[tuple[UUID, str], float] = {}
        #: When the processes of a dead owner were first seen.
        self._dying: dict[str, float] = {}

    async def close(self) -> None:
        await self._runs.close()

    async def look(self) -> None:
        """Give back or end every run that has lost its worker."""
        with self._turn() as ours:
            if not ours:
                return
            try:
                await self._look()
            except Unavailable as error:
                self._in_touch_since = None
                logger.info("No look for lost runs: %s", error)
            except YardError as error:
                logger.warning("Lost runs could not be given back: %s", error)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """Yield whether it is our turn to look; nobody else of this machine looks meanwhile."""
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            status = os.fstat(handle)
            # An empty file has just been made: nobody has looked yet.
            is_fresh = status.st_size > 0 and abs(time.time() - status.st_mtime) < _FRESH_S
            if is_fresh or not _locks(handle):
                yield False
            else:
                yield True
                os.pwrite(handle, b"looked", 0)
        finally:
            os.close(handle)

    async def _look(self) -> None:
        active = await self._runs.read_active(self._work_pool)
        now = time.monotonic()
        if self._in_touch_since is None or now - self._looked_at > 2 * LOOK_S + _PATIENCE_S:
            self._in_touch_since = now
        self._looked_at = now
        states, owners = {(run.id, run.state_id) for run in active}, {run.owner for run in active}
        self._unowned = {key: since for key, since in self._unowned.items() if key in states}
        self._dying = {owner: since for owner, since in self._dying.items() if owner in owners}
        beats: Beats | None = None
        for run in active:
            if not run.owner:
                loss = self._why_unowned(run, now)
            elif is_on(self._machine, run.owner):
                loss = self._why_gone(run.owner, now)
            else:
                beats = beats or await self._runs.read_beats(self._work_pool)
                loss = self._why_silent(run, beats, now)
            if loss is not None:
                await self._hand_over(run, loss)

    def _why_unowned(self, run: Run, now: float) -> Loss | None:
        # A run that runs and was never ours has been started by somebody else.
        if run.state_type == "RUNNING" and run.owner is None:
            return None
        since = self._unowned.setdefault((run.id, run.state_id), now)
        if now - since < UNOWNED_S:
            return None
        return Loss(cause="The worker that took this run never started it.", counts=run.state_type == "RUNNING")

    def _why_gone(self, owner: str, now: float) -> Loss | None:
        if not is_gone(owner):
            return None
        if left := leftovers(owner):
            # A forkserver is about to end them and to give their runs back.
            if is_forkserver_among(left) and now - self._dying.setdefault(owner, now) < _LAST_WILL_S:
                return None
            kill(left)
            if leftovers(owner):  # not dead yet; the next look finds them so
                return None
        return Loss(cause="The worker of this run died.")

    def _why_silent(self, run: Run, beats: Beats, now: float) -> Loss | None:
        worker = run.labels.get(WORKER_LABEL)
        if not isinstance(worker, str) or self._in_touch_since is None or now - self._in_touch_since < LOST_AFTER_S:
            return None
        last = beats.last.get(worker)
        if last is not None and (beats.now - last).total_seconds() < LOST_AFTER_S:
            return None
        return Loss(cause=f"The worker '{worker}' of this run has not been heard of for {LOST_AFTER_S:.0f} s.")

    async def _hand_over(self, run: Run, loss: Loss) -> None:
        for spool in spools_of(run.id, self._scratch):
            await finish_log(spool)
        fresh = await self._runs.read(run.id)
        if fresh is None or (fresh.state_id, fresh.owner) != (run.state_id, run.owner):
            return
        logger.warning("Flow run '%s' has lost its worker: %s", run.name, loss.cause)
        await settle(self._runs, fresh, loss)


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
