"""Kill the parts of a real yard at random moments of real training, and check that nothing is lost.

    python tests/faults/run.py --points 200 --seed 1 [--report FILE] [--keep]

SIGKILL of the facade, the Prefect server, MLflow, the worker (or its forkserver) or a training process, while a job
is submitted, waits, starts, runs, writes a checkpoint, publishes its files, finishes, is being paused or cancelled.
Ends with status 1 on any violation; see docs/faults.md for what is checked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from faults.checks import Violation, check_all
from faults.points import COMPONENTS, PHASES, Point, Sniper, plan
from faults.traffic import Traffic
from faults.watch import Watch
from faults.yard import FaultyYard, Stuck

#: A phase that does not come up is tried so many times more before the run is called off.
TRIES = 3
EPOCHS = 30
DRAIN_S = 240.0


@dataclass
class Report:
    seed: int
    counts: dict[Point, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    histories: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 0
    retries: int = 0
    missed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    longest_gap_s: float = 0.0

    @property
    def points(self) -> int:
        return sum(self.counts.values())

    def table(self) -> Table:
        table = Table("killed while a job is", *COMPONENTS, "all", title=f"SIGKILLs, seed {self.seed}")
        for phase in PHASES:
            row = [self.counts.get(Point(component, phase), 0) for component in COMPONENTS]
            table.add_row(phase, *map(str, row), str(sum(row)))
        sums = [sum(n for p, n in self.counts.items() if p.component == component) for component in COMPONENTS]
        table.add_row("all", *map(str, sums), str(sum(sums)))
        return table

    def show(self, console: Console) -> None:
        console.print(self.table())
        for violation in self.violations:
            console.print(f"{violation.kind}: {violation.job} {violation.what}", style="red", highlight=False)
            for line in self.histories.get(violation.job, []):
                console.print(f"    {line}", highlight=False)
        kinds = ("lost job", "wrong end state", "double run", "orphan process", "lost log lines", "lost metrics")
        counted = {kind: sum(v.kind == kind for v in self.violations) for kind in kinds}
        other = len(self.violations) - sum(counted.values())
        console.print(", ".join(f"{count} x {kind}" for kind, count in {**counted, "other": other}.items()))
        console.print(
            f"{self.points} points, {self.jobs} jobs, {self.retries} requests sent again, {len(self.missed)} phases "
            f"not met, longest time between two looks {self.longest_gap_s:.2f} s, {self.seconds:.0f} s in all."
        )

    def as_json(self) -> dict[str, object]:
        counts = [{**asdict(point), "count": count} for point, count in self.counts.items()]
        return {**vars(self), "counts": counts, "violations": [asdict(v) for v in self.violations]}


def run_points(
    folder: Path, points: list[Point], seed: int, *, epochs: int = EPOCHS, console: Console | None = None
) -> Report:
    """Hit all points in one yard below `folder` and return what came of it."""
    report, random, start = Report(seed), Random(seed), time.monotonic()
    yard = FaultyYard(folder, cpus="2")
    try:
        yard.start()
        with Watch(yard.home / "work") as watch:
            traffic = Traffic(yard, watch, random, epochs=epochs)
            traffic.learn_attempts()
            sniper = Sniper(yard, traffic, random)
            _hit_all(points, yard, traffic, sniper, console)
            yard.wait_until_ready()
            traffic.drain(DRAIN_S)
            report.violations = check_all(yard, traffic)
        report.counts, report.missed = sniper.counts, sniper.missed
        report.jobs, report.retries, report.longest_gap_s = len(traffic.jobs), yard.rest.retries, watch.longest_gap_s
        report.histories = {job.id: [job.name, *job.history] for job in traffic.jobs}
    finally:
        left = yard.stop()
    report.violations += [Violation("orphan process", "", f"{p} after `trainyard down`") for p in left]
    report.seconds = time.monotonic() - start
    return report


def _hit_all(points: list[Point], yard: FaultyYard, traffic: Traffic, sniper: Sniper, console: Console | None) -> None:
    waiting, tries = list(points), dict.fromkeys(points, TRIES)
    done = 0
    while waiting:
        yard.wait_until_ready()
        sniper.settle()
        traffic.top_up()
        # Nobody may lose the last attempt: take a kill that costs none first.
        harmless = [p for p in waiting if p.component not in ("worker", "child")]
        point = next(iter(harmless), waiting[0]) if sniper.must_spare() else waiting[0]
        waiting.remove(point)
        if sniper.hit(point):
            done += 1
            if console is not None:
                console.print(f"{time.strftime('%H:%M:%S')} {done}/{len(points)} {point.component} x {point.phase}")
        elif tries[point] > 0:
            tries[point] -= 1
            waiting.append(point)
        else:
            raise Stuck(f"{point} never came up: {sniper.missed}")
    yard.wait_until_ready()
    sniper.settle()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="comma-separated components or phases to stay with")
    parser.add_argument("--report", type=Path, help="write everything there as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the yard")
    options = parser.parse_args()
    console = Console(width=150)
    points = plan(options.points, Random(options.seed))
    if options.only:
        points = plan(options.points, Random(options.seed), set(options.only.split(",")))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the yard must be stopped
    folder = Path(tempfile.mkdtemp(prefix="trainyard-faults-"))
    console.print(f"{len(points)} points, seed {options.seed}, in {folder}")
    report = None
    try:
        report = run_points(folder, points, options.seed, console=console)
        report.show(console)
        if options.report is not None:
            options.report.write_text(json.dumps(report.as_json(), indent=1))
        return int(bool(report.violations))
    finally:
        if options.keep or report is None or report.violations:
            console.print(f"Databases, files and logs of the yard are kept in {folder}.")
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
