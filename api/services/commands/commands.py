"""Jobs that run a command: made, listed, stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from ....deployments.containers import container_variables
from ....schemas.actions import Action
from ....schemas.commands import Command
from ....schemas.errors import Conflict, InvalidInput, NotFound
from ....schemas.jobs import COMMAND
from ...catalog import Catalog
from ...catalog.commands import CommandJob, Project
from ...catalog.models import Job, User, utc_now
from ..access import read_job
from ..accounts.auth import Caller
from ..accounts.secrets import SecretBox
from ..jobs.holds import NO_CODE, Held
from ..jobs.jobs import JobEnded, JobService
from ..jobs.planning import Limits, NewJob, Owner, Plan
from ..jobs.reasons import JobView, Reasons
from ..jobs.workers import OnlineWorkers
from ..paging import Page, read_page
from .code import new_ticket
from .fitting import refuse_unfitting
from .projects import ProjectService, find_project
from .rids import read_id
from .states import CommandState, in_states, state_of
from .variables import VariableService, checked

#: A command starts from nothing each time, so it is not run again by itself after its worker was lost.
_ATTEMPTS = 1


#: Nobody takes a command before the catalog has it.
_NOT_WRITTEN = Held(NO_CODE.name, "About to be queued.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommand:
    """A command as a client asks for it."""

    command: Command
    name: str = ""
    description: str = ""
    project: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """A command and all that is shown with it."""

    view: JobView
    project: Project
    user: User | None
    """None for a run that was started in Prefect's UI."""
    usage: Mapping[str, float]
    code_bytes: int | None

    @property
    def job(self) -> Job:
        return self.view.row

    @property
    def state(self) -> CommandState:
        return state_of(self.view.row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CommandPlan(Plan):
    command: Command

    @property
    def job_variables(self) -> dict[str, Any]:
        command = self.command
        found = {
            "cpus": command.cpus,
            "gpus": command.gpus,
            "gpu_type": command.gpu_type if command.gpus else None,
            "memory_mb": command.memory_mb,
            "disk_mb": command.disk_mb,
            "max_attempts": _ATTEMPTS,
            **container_variables(command.cpus, command.gpus, command.memory_mb),
        }
        return {name: value for name, value in found.items() if value is not None}


class CommandService:
    def __init__(
        self,
        catalog: Catalog,
        jobs: JobService,
        reasons: Reasons,
        projects: ProjectService,
        variables: VariableService,
        workers: OnlineWorkers,
        box: SecretBox,
    ) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._reasons = reasons
        self._projects = projects
        self._variables = variables
        self._workers = workers
        self._box = box

    async def create(self, caller: Caller, asked: NewCommand) -> tuple[CommandView, str | None]:
        """Return a new command, and the secret of the address for its code when it waits for code.

        Raises:
            NotFound: no such project.
            InvalidInput: no worker has what it asks for, or a variable is none.
        """
        project = await self._projects.find(caller.org, asked.project)
        checked(asked.variables)
        if asked.expires_at is not None and asked.expires_at <= utc_now():
            raise InvalidInput("expires: that is in the past.")
        refuse_unfitting(asked.command, self._workers.capacities(Action.RUN))
        variables = {**await self._variables.values_for(caller.org, project.id), **asked.variables}
        secret = self._box.encrypt(json.dumps(variables)).encode() if variables else None
        held = NO_CODE if asked.command.needs_code else _NOT_WRITTEN
        job_id = await self._jobs.start_held(Owner(org=caller.org), _plan(caller.org, project, asked), held, secret)
        try:
            ticket = new_ticket() if asked.command.needs_code else None
            async with self._catalog.writing() as session:
                # An earlier try of the same request may have made it, and died before it could tell the ticket.
                row = await session.get(CommandJob, job_id)
                if row is None:
                    row = CommandJob(job_id=job_id, project_id=project.id, user_id=caller.user_id, usage={})
                    session.add(row)
                row.upload_sha256 = ticket.sha256 if ticket is not None else None
                row.ready_at = utc_now() if ticket is None else None
        except IntegrityError as error:
            await self._jobs.forget(job_id)
            raise NotFound("The project was deleted meanwhile.") from error
        except BaseException:
            await self._jobs.forget(job_id)
            raise
        if ticket is None:
            await self._jobs.settle(caller.org, job_id)
        return await self.read(caller.org, job_id), ticket.text if ticket is not None else None

    async def submit_code(self, org: str, said: str) -> CommandView:
        """Let a command start with the code that was uploaded; once is enough.

        Raises:
            Conflict: nothing was uploaded.
            NotFound: no such command.
        """
        found = await self.find(org, said)
        job_id = found.job.id
        async with self._catalog.writing() as session:
            row = await session.get(CommandJob, job_id, with_for_update=True)
            if row is None or (row.upload_sha256 is not None and row.code_bytes is None):
                raise Conflict("There is no code yet.", hint="PUT a tar.gz to the upload_url of the job first.")
            if row.ready_at is None:
                row.ready_at = utc_now()
        await self._jobs.settle(org, job_id)
        return await self.read(org, job_id)

    async def find(self, org: str, said: str) -> CommandView:
        """Return the command that an id or a rid stands for; NotFound when the org has none."""
        job_id = read_id(said)
        if job_id is None:
            raise NotFound("Job not found.")
        return await self.read(org, job_id)

    async def read(self, org: str, job_id: UUID) -> CommandView:
        async with self._catalog.reading() as session:
            job = await read_job(session, org, job_id)
            if job.action != Action.RUN:
                raise NotFound("Job not found.", hint="It is no job of a command; the TAO routes have it.")
        return (await self._views(org, [job]))[0]

    async def read_list(
        self, org: str, page: Page, *, project: str | None, states: tuple[CommandState, ...] | None
    ) -> tuple[list[CommandView], int]:
        """Return a page of the commands of an org, newest first, and the total.

        Raises:
            NotFound: no such project.
        """
        query = select(Job).where(Job.org == org, Job.action == Action.RUN)
        async with self._catalog.reading() as session:
            if project is not None:
                chosen = await find_project(session, org, project)
                query = query.join(CommandJob, CommandJob.job_id == Job.id).where(CommandJob.project_id == chosen.id)
            if states is not None:
                query = query.where(in_states(states))
            rows, total = await read_page(session, query, Job, page)
        return await self._views(org, rows), total

    async def cancel(self, org: str, said: str) -> CommandView:
        """Stop a command.

        Raises:
            Conflict: it has ended already.
            NotFound: no such command.
        """
        found = await self.find(org, said)
        try:
            await self._jobs.cancel(Owner(org=org), found.job.id)
        except JobEnded as error:
            ended = await self.read(org, found.job.id)
            raise Conflict(f"The job has ended already, as {ended.state}.") from error
        return await self.read(org, found.job.id)

    async def _views(self, org: str, jobs: Sequence[Job]) -> list[CommandView]:
        """Return commands of one org with all that is shown of them, at a fixed number of queries."""
        ids = [job.id for job in jobs]
        async with self._catalog.reading() as session:
            views = await self._reasons.views(session, jobs)
            query = (
                select(CommandJob, Project, User)
                .join(Project, Project.id == CommandJob.project_id)
                .join(User, User.id == CommandJob.user_id)
                .where(CommandJob.job_id.in_(ids))
            )
            known = {row.job_id: (row, project, user) for row, project, user in await session.execute(query)}
        default = await self._projects.find(org, None) if len(known) < len(ids) else None
        found = []
        for view in views:
            if view.row.id in known:
                row, project, user = known[view.row.id]
                found.append(
                    CommandView(view=view, project=project, user=user, usage=row.usage, code_bytes=row.code_bytes)
                )
            else:
                assert default is not None
                found.append(CommandView(view=view, project=default, user=None, usage={}, code_bytes=None))
        return found


def _plan(org: str, project: Project, asked: NewCommand) -> _CommandPlan:
    command = asked.command.model_dump(mode="json")
    return _CommandPlan(
        asked=NewJob(
            action=Action.RUN,
            # Of the variables only the names are facts about the job; the values are nobody's business.
            spec={**command, "variables": sorted(asked.variables)},
            name=asked.name,
            description=asked.description,
            num_gpu=asked.command.gpus,
            limits=Limits(max_attempts=_ATTEMPTS, expires_at=asked.expires_at),
        ),
        action=Action.RUN,
        subject=COMMAND,
        network=None,
        parameters={
            "org": org,
            "command": command,
            "project_id": str(project.id),
            **({"name": asked.name} if asked.name else {}),
        },
        tags={"org": org, "action": Action.RUN, "project": project.id},
        dataset_ids=[],
        parent_id=None,
        after=None,
        command=asked.command,
    )
