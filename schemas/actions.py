"""The actions of the API documents, and which of them make sense after which parent."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """An action of a job, spelled as on the wire."""

    DATASET_CONVERT = "dataset_convert"
    CONVERT = "convert"
    CONVERT_AND_INDEX = "convert_and_index"
    CONVERT_EFFICIENTDET_TF1 = "convert_efficientdet_tf1"
    CONVERT_EFFICIENTDET_TF2 = "convert_efficientdet_tf2"
    ANNOTATION_FORMAT_CONVERT = "annotation_format_convert"
    AUGMENT = "augment"
    ANALYZE = "analyze"
    VALIDATE = "validate"
    KMEANS = "kmeans"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PRUNE = "prune"
    RETRAIN = "retrain"
    EXPORT = "export"
    CALIBRATION_TENSORFILE = "calibration_tensorfile"
    """Write what an int8 engine is calibrated with as one file."""
    GEN_TRT_ENGINE = "gen_trt_engine"
    INFERENCE = "inference"
    RUN = "run"
    """A command of the user's own, with the user's own code."""
    TRAIN_BUNDLE = "train_bundle"
    """The stages of a bundle: the user's own code and data."""


#: Actions that run what a user has written; they may have a work pool of their own.
USERS_CODE = frozenset({Action.RUN, Action.TRAIN_BUNDLE})

#: Actions that index a data set; clients call the one that their network's tutorial names.
CONVERSIONS = frozenset(
    {
        Action.CONVERT,
        Action.DATASET_CONVERT,
        Action.CONVERT_AND_INDEX,
        Action.CONVERT_EFFICIENTDET_TF1,
        Action.CONVERT_EFFICIENTDET_TF2,
    }
)

#: Actions of data sets.
DATA_SERVICES = frozenset(
    {Action.ANNOTATION_FORMAT_CONVERT, Action.AUGMENT, Action.ANALYZE, Action.VALIDATE, Action.KMEANS}
)
DATASET_ACTIONS = CONVERSIONS | DATA_SERVICES

#: Actions that learn, write checkpoints and can be resumed under the same job id.
TRAINING = frozenset({Action.TRAIN, Action.RETRAIN})

#: Actions that cannot start from nothing: the parent job gives them their model.
NEEDS_PARENT = frozenset(
    {Action.PRUNE, Action.RETRAIN, Action.EXPORT, Action.CALIBRATION_TENSORFILE, Action.GEN_TRT_ENGINE}
)

#: What a parent must have made for the child to use it as its model.
MODEL_PARENTS: dict[Action, frozenset[Action]] = {
    Action.EVALUATE: frozenset({Action.TRAIN, Action.RETRAIN, Action.PRUNE, Action.EXPORT, Action.GEN_TRT_ENGINE}),
    Action.INFERENCE: frozenset({Action.TRAIN, Action.RETRAIN, Action.PRUNE, Action.EXPORT, Action.GEN_TRT_ENGINE}),
    Action.PRUNE: frozenset({Action.TRAIN, Action.RETRAIN}),
    Action.RETRAIN: frozenset({Action.TRAIN, Action.RETRAIN, Action.PRUNE}),
    Action.EXPORT: frozenset({Action.TRAIN, Action.RETRAIN, Action.PRUNE}),
    Action.CALIBRATION_TENSORFILE: frozenset({Action.EXPORT}),
    # why the second: its own parent has the graph.
    Action.GEN_TRT_ENGINE: frozenset({Action.EXPORT, Action.CALIBRATION_TENSORFILE}),
}
