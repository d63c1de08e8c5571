"""Between the words of the dialect and ours.

Each answer is a superset: the bare object that the command line reads, and around it `success` and `data` as the
document has them. Where the two forms of one field differ, `data` has the document's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from ....schemas.commands import ENDED_COMMAND, ENDED_SETUP, Command
from ....schemas.errors import InvalidInput, NotAvailable
from ...catalog.commands import OrgSecret, Project
from ...catalog.models import utc_now
from ...errors import invalid
from ...prices import Prices
from ...services.accounts.auth import Caller
from ...services.commands.commands import CommandView, NewCommand
from ...services.commands.rids import rid_of
from ...services.commands.states import ENDS, FAILURES, CommandState
from .access import org_rid
from .schemas import ConfigIn, JobIn

_HOUR_S = 3600.0
_MIB_PER_GB = 1024.0
#: What the command line sends when the user has not said how large the disk should be.
_UNSAID_DISK_MB = 20

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(w|d|h|m|s)[a-z]*", re.IGNORECASE)
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_EXIT_CODE = re.compile(rf"(?:{ENDED_COMMAND}|{ENDED_SETUP}) with exit code (\d+)")

#: Words of the filter `status`; the names of the states are words as well.
STATUS_WORDS: dict[str, tuple[CommandState, ...]] = {
    "pending": (CommandState.SUBMIT_CODE, CommandState.LAUNCHING),
    "running": (CommandState.RUNNING, CommandState.UPLOADING),
    "completed": (CommandState.SUCCESS,),
    "failed": FAILURES,
    "cancelled": (CommandState.USER_CANCELLED,),
    **{state.value.lower(): (state,) for state in CommandState if state is not CommandState.RUNNING},
}


def states_asked(word: str | None) -> tuple[CommandState, ...] | None:
    if not word:
        return None
    if (found := STATUS_WORDS.get(word.lower())) is None:
        raise InvalidInput(f"status: {word[:100]!r} is none of {', '.join(sorted(STATUS_WORDS))}.")
    return found


def command_asked(body: JobIn) -> NewCommand:
    """Return the command that a body describes in one form or the other."""
    if body.config is not None:
        return _from_config(body, body.config)
    if not body.run_command:
        raise InvalidInput("run_command: it is required.", hint="Say what to run, for example python train.py.")
    command = _command(
        run_command=body.run_command,
        setup_command=body.setup_command,
        image=body.image,
        cpus=body.cpu_cores or 1,
        # A type without a number is one of that type.
        gpus=body.gpus if body.gpus is not None else int(bool(body.gpu_type)),
        gpu_type=body.gpu_type or None,
        memory_mb=round(body.memory_gb * _MIB_PER_GB) or None,
        disk_mb=body.hdd_size_mb or None,
    )
    return NewCommand(
        command=command,
        name=body.name,
        description=body.description,
        project=body.project,
        variables=body.env_vars,
        expires_at=utc_now() + duration(body.expires) if body.expires else None,
    )


def _from_config(body: JobIn, config: ConfigIn) -> NewCommand:
    if config.interactive:
        raise NotAvailable(
            "config.interactive: nobody can log in to a running job here.", hint="Leave it out and read the logs."
        )
    if config.compliance_soc2 or config.clouds:
        raise NotAvailable(
            "config.clouds, config.compliance_soc2: the workers of this yard are not told apart by clouds.",
            hint="Leave them out.",
        )
    command = _command(
        run_command=config.run_command,
        setup_command=config.setup_command,
        image=config.image,
        cpus=config.cpus or 1,
        gpus=config.gpus,
        gpu_type=config.gpu_type or None,
        memory_mb=config.memory_mb or None,
        disk_mb=config.hdd_size_mb if config.hdd_size_mb > _UNSAID_DISK_MB else None,
        needs_code=True,
    )
    expires_at = None
    if config.expires_at is not None and config.expires_at >= 0:
        try:
            expires_at = datetime.fromtimestamp(config.expires_at, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise InvalidInput("config.expires_at: it is no time.", hint="Send seconds of the epoch.") from error
    return NewCommand(
        command=command, name=config.name, project=body.project, variables=config.env_vars, expires_at=expires_at
    )


def _command(**values: Any) -> Command:
    """Return a command; the document bounds less than a worker can have."""
    try:
        return Command(**values)
    except ValidationError as error:
        raise invalid(error) from error


def duration(text: str) -> timedelta:
    """Return the length of time that a text such as `4h` or `1d 12h` stands for."""
    rest, total = text.strip(), 0.0
    while rest and (found := _DURATION.match(rest)) is not None:
        total += float(found[1]) * _SECONDS[found[2].lower()]
        rest = rest[found.end() :].lstrip(" ,")
    if rest or total <= 0 or total > 10 * 365 * 86_400:
        raise InvalidInput("expires: it is no length of time.", hint="For example 4h, 30m or 1d 12h.")
    return timedelta(seconds=total)


def job_out(found: CommandView, prices: Prices, base_url: str, upload_url: str | None = None) -> dict[str, Any]:
    """Return a job in both forms."""
    document = job_document(found, prices)
    return {**_job_cli(found, prices, base_url, upload_url), "success": True, "data": document}


def _job_cli(found: CommandView, prices: Prices, base_url: str, upload_url: str | None) -> dict[str, Any]:
    job, spec = found.job, found.job.spec
    rid = rid_of("j", job.id)
    config: dict[str, Any] = {
        "id": str(job.id),
        "rid": rid_of("c", job.id),
        "name": job.name or rid,
        **{name: spec.get(name) or "" for name in ("image", "setup_command", "run_command")},
        "cpus": spec.get("cpus") or 1,
        "gpus": spec.get("gpus") or 0,
        "gpu_type": spec.get("gpu_type"),
        "memory_mb": spec.get("memory_mb") or 0,
        "hdd_size_mb": spec.get("disk_mb") or 0,
        # Only their names: the values may be secret.
        "env_vars": list(spec.get("variables") or ()),
        "interactive": False,
    }
    if job.expires_at is not None:
        config["expires_at"] = int(job.expires_at.timestamp())
    has_instance = found.state in (CommandState.RUNNING, CommandState.UPLOADING)
    instance = {"id": str(job.id), "rid": rid_of("i", job.id), "state": "RUNNING", "provider": _worker(found)}
    return {
        "id": str(job.id),
        "rid": rid,
        "name": job.name,
        "state": found.state,
        "message": found.view.message,
        "exit_code": _exit_code(found),
        "created_at": time_out(job.created_at),
        "started_at": time_out(job.started_at),
        "finished_at": time_out(job.ended_at),
        "s3_url": "",
        "upload_url": upload_url or "",
        "url": f"{base_url}api/v1/jobs/{rid}/",
        "project": project_out(found.project),
        "owner": _owner(found),
        "config": config,
        "cloud_offer": {
            "cpus": config["cpus"],
            "memory_mb": config["memory_mb"],
            "compliance_soc2": False,
            "gpu_type": _gpu_type(found),
            "gpu_memory_mb": 0,
            "gpus": config["gpus"],
        },
        "cost_per_hour": _hourly(found, prices),
        "total_cost": round(100 * _cost(found)),
        "gpu_hours": _gpu_hours(found),
        "metrics": _metrics(found),
        "instances": [instance] if has_instance else [],
    }


def job_document(found: CommandView, prices: Prices) -> dict[str, Any]:
    """Return a job as the document has it: ids as rids, the project as one, costs in the currency."""
    job, spec = found.job, found.job.spec
    rid = rid_of("j", job.id)
    memory_mb = spec.get("memory_mb")
    return {
        "id": rid,
        "rid": rid,
        "name": job.name,
        "description": job.description,
        "state": found.state,
        "message": found.view.message,
        "exit_code": _exit_code(found),
        "created_at": time_out(job.created_at),
        "started_at": time_out(job.started_at),
        "finished_at": time_out(job.ended_at),
        "project": rid_of("p", found.project.id),
        "owner": _owner(found),
        "gpu_type": _gpu_type(found),
        "gpus": spec.get("gpus") or 0,
        "cpu_cores": spec.get("cpus") or 1,
        "memory_gb": memory_mb / _MIB_PER_GB if memory_mb else None,
        "cost_per_hour": _hourly(found, prices),
        "total_cost": round(_cost(found), 4),
        "currency": prices.currency,
        "gpu_hours": _gpu_hours(found),
        "metrics": _metrics(found),
    }


def project_out(project: Project) -> dict[str, Any]:
    return {
        "id": str(project.id),
        "rid": rid_of("p", project.id),
        "name": project.name,
        "organization": project.org,
        "created_at": time_out(project.created_at),
    }


def org_out(org: str) -> dict[str, Any]:
    return {"id": org, "rid": org_rid(org), "name": org, "computed_credit_balance": 0}


def user_out(caller: Caller) -> dict[str, Any]:
    return {
        "id": str(caller.user_id),
        "rid": rid_of("u", caller.user_id),
        # The name is all that a yard knows of its users; mostly it is an address.
        "email": caller.user,
        "username": caller.user,
        "first_name": None,
        "last_name": None,
    }


def secret_out(secret: OrgSecret) -> dict[str, Any]:
    return {
        "id": str(secret.id),
        "rid": rid_of("s", secret.id),
        "name": secret.name,
        "organization": secret.org,
        "project": str(secret.project_id) if secret.project_id is not None else None,
        "digest": secret.digest,
        "created_at": time_out(secret.created_at),
    }


def one_out(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return one thing whose two forms are the same."""
    return {**item, "success": True, "data": dict(item)}


def list_out(
    request: Request,
    items: Sequence[Mapping[str, Any]],
    documents: Sequence[Mapping[str, Any]],
    total: int,
    *,
    limit: int,
    offset: int,
) -> dict[str, Any]:
    """Return a page of a list in both forms."""
    links: dict[str, Any] = {
        "count": total,
        "next": _link(request, limit, offset + limit) if offset + limit < total else None,
        "previous": _link(request, limit, max(0, offset - limit)) if offset > 0 else None,
    }
    return {**links, "results": list(items), "success": True, "data": {**links, "results": list(documents)}}


def _link(request: Request, limit: int, offset: int) -> str:
    return str(request.url.include_query_params(limit=limit, offset=offset))


def time_out(moment: datetime | None) -> str | None:
    """Return a moment with its offset in figures: the command line's Python 3.10 does not read a Z."""
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def _owner(found: CommandView) -> dict[str, Any] | None:
    if found.user is None:
        return None
    return {"id": rid_of("u", found.user.id), "email": found.user.name, "username": found.user.name}


def _exit_code(found: CommandView) -> int | None:
    match = _EXIT_CODE.match(found.job.message) if found.state in ENDS else None
    return int(match[1]) if match is not None else None


def _worker(found: CommandView) -> str | None:
    last = found.job.attempts[-1] if found.job.attempts else {}
    return last.get("worker")


def _gpu_type(found: CommandView) -> str | None:
    last = found.job.attempts[-1] if found.job.attempts else {}
    return last.get("gpu_type") or found.job.spec.get("gpu_type")


def _hourly(found: CommandView, prices: Prices) -> float:
    spec = found.job.spec
    cpus, gpus = spec.get("cpus") or 1, spec.get("gpus") or 0
    return round(prices.of(cpus * _HOUR_S, gpus * _HOUR_S, _gpu_type(found)), 6)


def _cost(found: CommandView) -> float:
    return found.view.use.cost if found.view.use is not None else 0.0


def _gpu_hours(found: CommandView) -> float:
    return round(found.view.use.gpu_seconds / _HOUR_S, 6) if found.view.use is not None else 0.0


def _metrics(found: CommandView) -> dict[str, float | None]:
    memory = found.usage.get("memory")
    return {
        "gpu_utilization": found.usage.get("gpu_utilization"),
        "memory_usage": round(memory / _MIB_PER_GB, 3) if memory is not None else None,
        "cpu": found.usage.get("cpu"),
    }
