"""Everything that can go wrong for a user, by cause.

Each error carries a stable `code`, an HTTP `status` and a `hint` that says what to do.
`KeyError` and `ValueError` are bugs of ours and never reach a user as a 4xx.
"""

from __future__ import annotations


class YardError(Exception):
    """Base of all errors that are part of the interface.

    `message` says what happened and where; `hint` what to do about it.
    """

    code = "internal"
    status = 500
    hint = ""
    retry_after_s: float | None = None
    """When it is worth to try again, for errors that pass."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInput(YardError):
    """A value that the caller sent is not acceptable."""

    code, status = "invalid_input", 400


class SpecError(InvalidInput):
    """A spec does not fit its action: wrong type, out of bounds, unknown word, other network."""

    code = "invalid_spec"
    hint = "GET .../specs/{action}/schema lists every parameter with its bounds and default."


class TooSlow(InvalidInput):
    """A body that comes in too slowly."""

    code, status = "too_slow", 408


class ArchiveError(InvalidInput):
    """An uploaded archive is broken, hostile or of an unknown kind."""

    code = "invalid_archive"
    hint = "Send a .tar or .tar.gz that holds only folders and regular files."


class DatasetError(InvalidInput):
    """A data set does not have the layout or the content that its format asks for."""

    code = "invalid_dataset"


class ActionNotAllowed(InvalidInput):
    """The action does not exist for this network or data set, or needs another parent."""

    code = "action_not_allowed"


class NotAuthenticated(YardError):
    """No credentials, or credentials that are wrong, expired or revoked."""

    code, status = "not_authenticated", 401
    hint = "POST /api/v1/login with an API key and send the token as `Authorization: Bearer`."


class Forbidden(YardError):
    """Valid credentials of somebody else."""

    code, status = "forbidden", 403


class QuotaExceeded(Forbidden):
    """The org uses all that it may."""

    code = "quota_exceeded"


class NotFound(YardError):
    """An id that does not exist or belongs to another org: the two answer alike."""

    code, status = "not_found", 404


class Conflict(YardError):
    """The thing is in a state that does not allow this now."""

    code, status = "conflict", 409


class KeyReused(YardError):
    """An Idempotency-Key that belongs to another request."""

    code, status = "idempotency_key_reused", 422
    hint = "Take a new key for a new request; send the old request unchanged to have its answer again."


class TooManyRequests(YardError):
    """More of something at a time than one org may have."""

    code, status = "too_many_requests", 429
    retry_after_s = 5.0


class InUse(InvalidInput):
    """The thing cannot be changed or deleted while others need it."""

    code = "in_use"


class TooLarge(YardError):
    """A body, archive or file above its limit."""

    code, status = "too_large", 413


class StorageFull(YardError):
    """No room left where files are kept."""

    code, status = "storage_full", 507
    hint = "Free space in the storage or delete data sets and jobs that nobody needs."


class Unavailable(YardError):
    """A part of the yard does not answer at the moment."""

    code, status = "unavailable", 503
    retry_after_s = 5.0
    hint = "Try again in a few seconds; `trainyard status` shows which part is down."


class NotAvailable(YardError):
    """Something that this yard does not have: a driver, a server beside it."""

    code, status = "not_available", 501


class JobFailed(YardError):
    """A job cannot go on; the message becomes the job's message."""

    code = "job_failed"


class MissingFeature(JobFailed):
    """Something that is not installed or not there on this machine."""

    code = "missing_feature"
