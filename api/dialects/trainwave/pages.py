"""The pages of a login and of a configuration: plain forms, no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem;color:#1b1f24}"
    "label{display:block;margin:1rem 0 .25rem}"
    "input,textarea{width:100%;box-sizing:border-box;padding:.5rem;font:inherit}"
    "button{margin-top:1.5rem;padding:.5rem 1.5rem;font:inherit}.wrong{color:#b42318}small{color:#57606a}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One entry of a configuration."""

    name: str
    label: str
    is_number: bool = False
    is_long: bool = False


FIELDS = (
    Field(name="name", label="Name of the job"),
    Field(name="project", label="Project"),
    Field(name="setup_command", label="Command to run before", is_long=True),
    Field(name="run_command", label="Command to run", is_long=True),
    Field(name="image", label="Container image"),
    Field(name="cpus", label="CPUs", is_number=True),
    Field(name="gpus", label="GPUs", is_number=True),
    Field(name="gpu_type", label="Type of GPU"),
    Field(name="memory_mb", label="Memory in MiB", is_number=True),
    Field(name="hdd_size_mb", label="Disk in MiB", is_number=True),
    Field(name="expires", label="Time after which it is ended, for example 4h"),
)


def login_page(machine: str, problem: str = "") -> str:
    """Return the page on which a user lets a command line act in the own name."""
    wrong = f'<p class="wrong" role="alert">{escape(problem)}</p>' if problem else ""
    return _html(
        "Log in",
        f"<p>The command line on <b>{escape(machine)}</b> asks to act in your name. "
        "Go on only if you have started it yourself, just now.</p>"
        f'{wrong}<form method="post"><label for="key">Your API key</label>'
        '<input id="key" name="key" type="password" autocomplete="off" required autofocus>'
        "<small>The command line gets a key of its own, which you can revoke alone.</small>"
        '<button type="submit">Let it</button></form>',
    )


def config_page(current: Mapping[str, Any], projects: Sequence[str]) -> str:
    """Return the page on which a user fills in the configuration of a job."""
    rows = []
    for field in FIELDS:
        value = escape(str(current.get(field.name) or ""))
        attributes = f'id="{field.name}" name="{field.name}"'
        if field.is_long:
            box = f'<textarea {attributes} rows="3">{value}</textarea>'
        else:
            kind = ' inputmode="numeric"' if field.is_number else ""
            choices = ' list="projects"' if field.name == "project" else ""
            box = f'<input {attributes} value="{value}"{kind}{choices}>'
        rows.append(f'<label for="{field.name}">{escape(field.label)}</label>{box}')
    options = "".join(f'<option value="{escape(name)}">' for name in projects)
    return _html(
        "Configure a job",
        f'<form method="post">{"".join(rows)}<datalist id="projects">{options}</datalist>'
        "<small>Variables stay as they are in your file.</small><br>"
        '<button type="submit">Save</button></form>',
    )


def message_page(said: str, more: str = "") -> str:
    return _html("Command line", f"<p>{escape(said)}</p><p>{escape(more)}</p>")


def _html(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
