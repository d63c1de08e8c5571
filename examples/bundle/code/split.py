"""Stage 1: set some of the points aside for the test."""

import argparse
import json
import os
from pathlib import Path

import numpy as np

arguments = argparse.ArgumentParser()
arguments.add_argument("--share", type=float, required=True)
share = arguments.parse_args().share

parameters = json.loads(Path(os.environ["TRAINYARD_PARAMETERS"]).read_text())
points = np.loadtxt("data/points.csv", delimiter=",", skiprows=1)
np.random.default_rng(parameters["seed"]).shuffle(points)
count = round(share * len(points))
np.savetxt("work/test.csv", points[:count], delimiter=",")
np.savetxt("work/train.csv", points[count:], delimiter=",")
print(f"{len(points) - count} points to train with, {count} to test with")
