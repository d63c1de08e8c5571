"""Keeps secrets out of logs: values of the environment that look like one are replaced by `***`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from ..schemas.errors import YardError

MASK = "***"

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|AUTH|CREDENTIAL", re.IGNORECASE)

#: Shorter values are words that occur in ordinary lines.
_MIN_LENGTH = 6
_GIVEN_MIN_LENGTH = 8

_TRACEBACKS = logging.Formatter()


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """Return the values that must not be shown: of variables named like a secret, and passwords in URLs."""
    found: set[str] = set()
    for name, value in environment.items():
        # why: a variable named like a secret may hold the path of a file or socket, which is none.
        if _SECRET_NAME.search(name) and not value.startswith("/"):
            found.add(value)
        try:
            parts = urlsplit(value)
            user, password = parts.username, parts.password
        except ValueError:
            continue  # no URL
        if password:
            found |= {password, unquote(password)}
            if len(password) < _MIN_LENGTH:
                found.add(f"{user}:{password}")
    return {value for value in found if len(value) >= _MIN_LENGTH}


def given_secrets(variables: Mapping[str, str]) -> set[str]:
    """Return the values to hide of what a user has given to a job: whatever its name, nobody else is to read it.

    Short ones and numbers would blot out ordinary lines; of these only those that are named like a secret.
    """
    long = {value for value in variables.values() if len(value) >= _GIVEN_MIN_LENGTH and not value.isdigit()}
    return long | secrets_of(variables)


class Redaction(logging.Filter):
    """Replaces secrets in every record that passes a handler, the traceback included."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        self._secrets |= set(secrets)
        # why: the longest first, or a secret that begins with another one would show its rest.
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def clean(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def filter(self, record: logging.LogRecord) -> bool:
        if self._pattern is None:
            return True
        message = record.getMessage()
        if (cleaned := self.clean(message)) != message:
            record.msg, record.args = cleaned, None
        if record.exc_info and not record.exc_text:
            record.exc_text = _TRACEBACKS.formatException(record.exc_info)
        if record.exc_text and (cleaned := self.clean(record.exc_text)) != record.exc_text:
            # why: a handler with a formatter of its own would format the traceback anew.
            record.exc_text, record.exc_info = cleaned, None
        return True

    def clean_error(self, error: BaseException) -> None:
        """Clean the message of an exception: Prefect makes it the message of the run's last state."""
        error.args = tuple(self.clean(arg) if isinstance(arg, str) else arg for arg in error.args)
        if isinstance(error, YardError):
            error.message, error.hint = self.clean(error.message), self.clean(error.hint)


#: One for the process: what is added stays, because Prefect logs the end of a run after the run.
REDACTION = Redaction()


def redact_logs(loggers: Iterable[str], secrets: Iterable[str] = ()) -> Redaction:
    """Make all handlers that records of `loggers` reach hide the secrets of the environment."""
    REDACTION.add(secrets_of(os.environ) | {secret for secret in secrets if len(secret) >= _MIN_LENGTH})
    for name in loggers:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            for handler in logger.handlers:
                handler.addFilter(REDACTION)
            logger = logger.parent if logger.propagate else None
    return REDACTION
