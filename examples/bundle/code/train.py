"""Stage 2: train, and leave a model after every epoch."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

parameters = json.loads(Path(os.environ["TRAINYARD_PARAMETERS"]).read_text())
models = Path(os.environ["TRAINYARD_MODELS"])
rng = np.random.default_rng(parameters["seed"])


def read(name):
    table = np.loadtxt(f"work/{name}.csv", delimiter=",")
    return table[:, :2], table[:, 2]


def report(**line):
    """One line of JSON for each thing that is worth knowing."""
    with Path(os.environ["TRAINYARD_METRICS"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def predict(model, points):
    features = np.cos(points @ model["projection"] + model["phase"])
    return 1 / (1 + np.exp(-(features @ model["weights"]))), features


points, labels = read("train")
test_points, test_labels = read("test")

# The manifest may name models to start from: each lies in a folder of its id.
parents = sorted(Path(os.environ["TRAINYARD_PARENTS"]).glob("*/*.safetensors"))
if parents:
    model = load_file(parents[0])
    print(f"starting from {parents[0].parent.name}")
else:
    model = {
        "projection": rng.normal(0, 2, (2, parameters["features"])),
        "phase": rng.uniform(0, 2 * np.pi, parameters["features"]),
        "weights": np.zeros(parameters["features"]),
    }

for epoch in range(1, parameters["epochs"] + 1):
    for _ in range(20):
        probability, features = predict(model, points)
        gradient = features.T @ (probability - labels) / len(labels)
        model["weights"] -= parameters["learning_rate"] * gradient
    probability, _ = predict(model, test_points)
    safe = np.clip(probability, 1e-9, 1 - 1e-9)
    loss = float(-np.mean(test_labels * np.log(safe) + (1 - test_labels) * np.log(1 - safe)))
    accuracy = float(np.mean((probability > 0.5) == test_labels))
    name = f"epoch_{epoch}.safetensors"
    save_file(model, models / name)
    report(
        model=name,
        step=epoch,
        metrics={"loss": loss, "accuracy": accuracy},
        progress=epoch / parameters["epochs"],
        message=f"epoch {epoch} of {parameters['epochs']}",
    )
    print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}")
