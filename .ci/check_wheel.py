"""Build the wheel and compare its modules with the tree: a forgotten package is an error."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Folders of the tree that are not part of the package.
OUTSIDE = {"tests", "examples", "benchmarks", "docs", "build", "dist", ".ci"}


def main() -> int:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    expected = {f"prefect_trainyard/{name}" for name in tracked.split() if name.split("/")[0] not in OUTSIDE}
    with tempfile.TemporaryDirectory() as scratch:
        # From a clean copy: setuptools would take stale files out of an old build folder.
        source = Path(scratch) / "source"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", scratch, str(source)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=scratch,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = {name for name in archive.namelist() if name.endswith(".py")}
    if expected != found:
        print(f"missing in the wheel: {sorted(expected - found)}; only there: {sorted(found - expected)}")
        return 1
    print(f"{wheel.name} holds all {len(found)} modules.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
