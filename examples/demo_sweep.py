"""A sweep over REST: is the best of 12 trials better than the default spec, at equal epochs?

Starts a yard in a temporary home (or uses `--api URL --key KEY`), trains the default spec, then searches with
`automl_settings` of the API documents, and measures both models on digits that neither has seen. Seeds are fixed.
Exit code 0 only if the sweep's model is better on the evaluation data, where the search looked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from demo import ACCURACY, NETWORK, Demo, console, main

TRIALS = 12

#: Every parameter but these is at its default. So few epochs do not forgive a bad learning rate.
SPEC: dict[str, Any] = {
    "model": {"backbone": {"type": "resnet10t"}},
    "dataset": {"augmentation": {"horizontal_flip": 0.0}},
    "train": {"train_config": {"runner": {"max_epochs": 3}}},
}
SWEEP = {
    "automl_enabled": True,
    "automl_algorithm": "bayesian",
    "automl_max_recommendations": TRIALS,
    "automl_seed": 1,
}


def compare(demo: Demo, data: Path) -> int:
    """Train the default spec, sweep, evaluate both on unseen images."""
    train = demo.dataset("digits train", "classification_pyt", [data / "train_1.tar.gz", data / "train_2.tar.gz"])
    evaluation = demo.dataset("digits eval", "classification_pyt", [data / "eval.tar.gz"])
    test = demo.dataset("digits test", "classification_pyt", [data / "test_labelled.tar.gz"])
    made = demo.call("POST", "experiments", json={"network_arch": NETWORK, "name": "digits", "encryption_key": "demo"})
    owner = f"experiments/{made['id']}"
    demo.call("PATCH", owner, json={"train_datasets": [train], "eval_dataset": evaluation})
    plain = demo.job(owner, "train", SPEC, label="default spec")
    demo.call("PATCH", owner, json={"metric": "kpi", "automl_settings": SWEEP})
    sweep = demo.job(owner, "train", SPEC, label=f"{TRIALS} trials")
    demo.call("PATCH", owner, json={"eval_dataset": test})
    demo.job(owner, "evaluate", parent=plain, label="default, unseen")
    demo.job(owner, "evaluate", parent=sweep, label="best, unseen")

    details = demo.call("GET", f"{owner}/jobs/{sweep}:automl_details")
    for trial in sorted(details["trials"], key=lambda trial: -(trial["result"] or 0)):
        varied = ", ".join(f"{name.rpartition('.')[2]} {value:.4g}" for name, value in trial["specs"].items())
        console.print(f"trial {trial['id']:2}  {trial['status']:8} {ACCURACY} {trial['result']:.4f}  {varied}")
    before, after = demo.row("default spec").accuracy or 0.0, demo.row(f"{TRIALS} trials").accuracy or 0.0
    demo.expect(after > before, f"the best trial reaches {after:.4f} and the default spec {before:.4f}")
    unseen = {row.action: row.accuracy for row in demo.rows}
    console.print(
        f"On the evaluation data {before:.4f} -> {after:.4f}; "
        f"on unseen images {unseen['default, unseen']:.4f} -> {unseen['best, unseen']:.4f}."
    )
    return demo.finish()


if __name__ == "__main__":
    sys.exit(main(compare, __doc__))
