"""The analyze and validate actions: what a data set with boxes holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from ..datasets.box_analysis import analyze_boxes, validate_boxes, write_problems, write_tables
from ..datasets.box_figures import draw_analysis
from ..datasets.box_folder import ReadOptions
from ..datasets.box_formats import inspect_boxes
from ..datasets.problems import Problems
from ..datasets.specs import AnalysisSpec
from ..schemas.actions import Action
from ..schemas.results import ArtifactKind, JobResult, Output
from .dataset_execution import DatasetInputs, artifacts, run_dataset_action

#: Folder of tables and figures in the folder of the job.
REPORTS = "analysis"

#: So many problems are in the log as well.
_LOGGED = 20


@task(name="analyze")
def analyze(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
) -> JobResult:
    """Describe a data set with boxes in tables and figures, in the folder `analysis` of the job.

    What is broken is listed and not counted. `data`, `format` and `type` are as for `convert`.

    Raises:
        DatasetError: nothing can be read of the data set.
    """
    return run_dataset_action(Action.ANALYZE, _analyze, data=data, format=format, type=type, spec=spec)


@task(name="validate")
def validate(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
) -> JobResult:
    """List every problem of a data set with boxes, with file and line, in the folder `analysis` of the job.

    Every picture is decoded. A job that finds problems has done its work: `kpi` says how many there are. `data`,
    `format` and `type` are as for `convert`.

    Raises:
        DatasetError: nothing can be read of the data set.
    """
    return run_dataset_action(Action.VALIDATE, _validate, data=data, format=format, type=type, spec=spec)


def _analyze(inputs: DatasetInputs) -> Output:
    assert isinstance(inputs.spec, AnalysisSpec)
    folder = inputs.out / REPORTS
    found = analyze_boxes(inspect_boxes(inputs.root, inputs.kind.name, ReadOptions(masks=inputs.needs_masks)))
    for note in found.notes:
        inputs.reporter.log(note)
    _log_problems(inputs, found.problems)
    tables = write_tables(found, folder)
    figures = draw_analysis(found, folder) if inputs.spec.figures else []
    kpi = {
        "images": float(found.pictures),
        "empty_images": float(found.empty_pictures),
        "boxes": float(found.boxes),
        "classes": float(sum(row.boxes > 0 for row in found.classes)),
        "problems": float(found.problems.count),
    }
    if found.pictures:
        kpi["boxes_per_image"] = found.boxes / found.pictures
    if found.imbalance is not None:
        kpi["imbalance"] = found.imbalance
    per_class = {"boxes": "boxes", "images": "pictures", "small": "small", "medium": "medium", "large": "large"}
    return Output(
        artifacts=[
            *artifacts(tables, inputs.out, ArtifactKind.REPORT),
            *artifacts(figures, inputs.out, ArtifactKind.FIGURE),
        ],
        kpi=kpi,
        categorical={
            metric: {row.name: float(getattr(row, column)) for row in found.classes}
            for metric, column in per_class.items()
        }
        if found.classes
        else {},
        message=f"{found.pictures} images with {found.boxes} boxes; {_count(found.problems)}.",
    )


def _validate(inputs: DatasetInputs) -> Output:
    found = validate_boxes(inputs.root, inputs.kind.name, ReadOptions(masks=inputs.needs_masks))
    _log_problems(inputs, found.problems)
    pictures, kinds = len(found.boxes.pictures), found.problems.counts
    return Output(
        artifacts=artifacts([write_problems(found.problems, inputs.out / REPORTS)], inputs.out, ArtifactKind.REPORT),
        kpi={
            "images": float(pictures),
            "boxes": float(found.boxes.box_count),
            "problems": float(found.problems.count),
        },
        categorical={"problems": {kind: float(count) for kind, count in kinds.items()}} if kinds else {},
        message=f"{pictures} images with {found.boxes.box_count} boxes are right; {_count(found.problems)}.",
    )


def _log_problems(inputs: DatasetInputs, problems: Problems) -> None:
    for problem in problems.found[:_LOGGED]:
        inputs.reporter.log(str(problem))
    if problems.count > _LOGGED:
        inputs.reporter.log(f"{problems.count - _LOGGED} more problems are in {REPORTS}/problems.csv.")


def _count(problems: Problems) -> str:
    return {0: "no problems", 1: "1 problem"}.get(problems.count, f"{problems.count} problems")
