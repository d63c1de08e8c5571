"""Specs that are saved before the jobs that they are for, one per action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from ....schemas.actions import Action
from ....schemas.errors import NotFound
from ....schemas.specs import words
from ...catalog import Catalog
from ...catalog.models import utc_now
from ...catalog.saved_specs import SavedSpec
from ..access import read_dataset, read_experiment
from ..jobs.planning import Owner
from .specs import Subject, checked_spec, dataset_kind, read_schema, spec_model

#: Actions that go by what was saved for training while nothing was saved for themselves.
_LIKE_TRAIN = frozenset({Action.RETRAIN, Action.EVALUATE, Action.INFERENCE})


class SavedSpecs:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def read(self, owner: Owner, action: str) -> dict[str, Any]:
        """Return what was saved for an action.

        Raises:
            NotFound: no such experiment, data set or action, or nothing was saved.
        """
        async with self._catalog.reading() as session:
            read_schema(action, await _subject_of(session, owner))
            row = await session.get(SavedSpec, (_id_of(owner), action))
        if row is None:
            raise NotFound("Spec not found.", hint=f"POST one; without it {action} runs with the defaults.")
        return row.spec

    async def save(self, owner: Owner, action: str, spec: Mapping[str, Any], *, merge: bool = False) -> dict[str, Any]:
        """Keep a spec for the jobs to come and return it; `merge` lays it over what was saved before.

        Raises:
            NotFound: no such experiment, data set or action.
            SpecError: the spec does not fit; what was saved before stays.
        """
        async with self._catalog.writing() as session:
            subject = await _subject_of(session, owner, lock=True)
            read_schema(action, subject)
            row = await session.get(SavedSpec, (_id_of(owner), action))
            whole = _merged(row.spec, spec) if merge and row is not None else dict(spec)
            checked_spec(Action(action), subject, whole)
            if row is None:
                row = SavedSpec(
                    owner_id=_id_of(owner),
                    action=action,
                    experiment_id=owner.experiment_id,
                    dataset_id=owner.dataset_id,
                )
                session.add(row)
            row.spec, row.updated_at = whole, utc_now()
        return whole

    async def read_for_job(self, owner: Owner, action: str) -> dict[str, Any]:
        """Return the spec that a job gets that brings none: the saved one, what of the training's fits, or nothing.

        Unknown actions have none: whoever plans the job says what is wrong with them.
        """
        async with self._catalog.reading() as session:
            subject = await _subject_of(session, owner)
            row = await session.get(SavedSpec, (_id_of(owner), action))
            if row is not None:
                return row.spec
            if owner.experiment_id is None or action not in _LIKE_TRAIN:
                return {}
            row = await session.get(SavedSpec, (_id_of(owner), Action.TRAIN))
        if row is None:
            return {}
        known = words(spec_model(action, subject))
        return {name: value for name, value in row.spec.items() if name in known or not isinstance(value, dict)}


def _id_of(owner: Owner) -> UUID:
    found = owner.experiment_id or owner.dataset_id
    assert found is not None
    return found


async def _subject_of(session: AsyncSession, owner: Owner, *, lock: bool = False) -> Subject:
    """Return what the specs are of; NotFound where there is no such experiment or data set in the org."""
    if owner.experiment_id is not None:
        return (await read_experiment(session, owner.org, owner.experiment_id, lock=lock)).network
    return dataset_kind(await read_dataset(session, owner.org, _id_of(owner), lock=lock))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(old)
    for name, value in new.items():
        before = whole.get(name)
        whole[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return whole
