"""Which of a job's models others use."""

from __future__ import annotations

from .actions import Action
from .errors import NotFound
from .jobs import ModelChoice
from .results import Artifact, ArtifactKind, JobResult

_MODEL_KINDS = {
    Action.EXPORT: ArtifactKind.ONNX,
    Action.GEN_TRT_ENGINE: ArtifactKind.ENGINE,
}


def choose_model(parent: JobResult, choice: ModelChoice) -> Artifact:
    """Return the model artifact of a job: its engine, its ONNX file, or the asked weights.

    An asked epoch that is not kept falls back to the newest, as the API documents say.
    """
    kind = _MODEL_KINDS.get(parent.action, ArtifactKind.WEIGHTS)
    candidates = [a for a in parent.artifacts if a.kind is kind]
    if not candidates:
        raise NotFound(f"The parent job {parent.job_id} left no {kind}.", hint="Run the parent job again.")
    wanted = {
        "best_model": parent.best_epoch,
        "latest_model": parent.latest_epoch,
        "from_epoch_number": choice.epoch,
    }[choice.method]
    newest = max(candidates, key=lambda a: a.epoch or 0)
    return next((a for a in candidates if wanted is not None and a.epoch == wanted), newest)
