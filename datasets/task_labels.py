"""Labels of several tasks per image: a table beside the images, and a file beside their index.

A table is a CSV file. Its first column has the names of the images, and every other column is a task; a cell names
the class of the image in the task and is empty where nobody knows it:

    fname,colour,shape
    1.png,red,round
    2.png,,square
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..schemas.errors import DatasetError

#: Names that a table may have.
TABLE_NAMES = frozenset({"train.csv", "val.csv", "test.csv", "labels.csv"})

#: Label of an image in a task that its table says nothing about.
UNLABELLED = -1

TASKS_FILE = "tasks.parquet"

_MAX_BYTES = 256 * 2**20

#: Tasks give their names to metrics, figures and outputs of graphs.
_TASK = re.compile(r"[A-Za-z0-9_-]{1,64}")

_HINT = (
    f"Put a table beside the folder of images, called {', '.join(sorted(TABLE_NAMES))}: the first column has the file "
    "names, and each other column has the classes of a task."
)


@dataclass(frozen=True, slots=True)
class TaskLabels:
    """The classes of each task, sorted, and the labels of all images (N, tasks), which count into them."""

    tasks: dict[str, list[str]]
    labels: npt.NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Return how many images each class of each task has, by `task=class`."""
        return {
            f"{task}={name}": int((self.labels[:, column] == label).sum())
            for column, (task, names) in enumerate(self.tasks.items())
            for label, name in enumerate(names)
        }


def read_tables(root: Path, images: Sequence[PurePosixPath], tables: Sequence[PurePosixPath]) -> TaskLabels:
    """Return the labels of `images`, in their order, from the `tables` below `root`.

    Raises:
        DatasetError: with table and line: a name that is no image, an image without a line or with two that differ,
            a line that does not fit the header.
    """
    if not tables:
        raise DatasetError("The images lie in no class folders, and there is no table with their labels.", hint=_HINT)
    numbers = _numbers(images)
    tasks: tuple[str, ...] = ()
    found: dict[int, tuple[str, Sequence[str]]] = {}
    for table in tables:
        lines = _lines(root, table)
        columns = _header(table, next(lines, (1, [])))
        if tasks and set(columns) != set(tasks):
            raise DatasetError(
                f"{table} has the tasks {', '.join(columns)}, and {tables[0]} has {', '.join(tasks)}.",
                hint="Give all tables the same columns.",
            )
        tasks = tasks or columns
        for line, cells in lines:
            where = f"{table}, line {line}"
            name, names = _row(where, cells, columns, numbers)
            row = [names[task] for task in tasks]
            before = found.setdefault(numbers[name], (where, row))
            if list(before[1]) != row:
                raise DatasetError(
                    f"{where}: {name} has other labels than in {before[0]}.", hint="Give each image one line."
                )
    missing = [str(path) for i, path in enumerate(images) if i not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DatasetError(
            f"No line in {', '.join(map(str, tables))} is about {', '.join(missing[:5])}{more}.",
            hint="Add a line for every image, with empty cells for what is not known, or leave the images out.",
        )
    return _labels(tasks, [found[i][1] for i in range(len(images))], tables)


def write_tasks(folder: Path, labels: TaskLabels) -> Path:
    """Write the labels beside an index and return the file."""
    columns = {task: labels.labels[:, i].astype(np.int32) for i, task in enumerate(labels.tasks)}
    pq.write_table(pa.table(columns), folder / TASKS_FILE, compression="zstd")
    return folder / TASKS_FILE


def read_tasks(folder: Path, tasks: Mapping[str, Sequence[str]], count: int) -> npt.NDArray[np.int64]:
    """Return the labels beside the index of `count` images.

    Raises:
        ValueError: the file is not there or not of these tasks; the sentence says which.
    """
    if not (folder / TASKS_FILE).is_file():
        raise ValueError(f"{TASKS_FILE} is missing")
    try:
        # why: no threads, since a process that forks workers must not have started any.
        table = pq.read_table(folder / TASKS_FILE, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{TASKS_FILE} is not readable") from error
    if table.column_names != list(tasks) or table.num_rows != count:
        raise ValueError(f"{TASKS_FILE} has other tasks or images than the index")
    labels = np.stack([table[task].to_numpy().astype(np.int64) for task in tasks], axis=1)
    if labels.min() < UNLABELLED or (labels.max(axis=0) >= [len(names) for names in tasks.values()]).any():
        raise ValueError(f"{TASKS_FILE} has labels without a class")
    return labels


def _numbers(images: Sequence[PurePosixPath]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for i, path in enumerate(images):
        name = unicodedata.normalize("NFC", path.name)
        if name in numbers:
            raise DatasetError(f"Two images are called {name}.", hint="Give each image a name of its own.")
        numbers[name] = i
    return numbers


def _lines(root: Path, table: PurePosixPath) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table that are not empty, with their numbers."""
    if (root / table).stat().st_size > _MAX_BYTES:
        raise DatasetError(f"{table} is larger than {_MAX_BYTES // 2**20} MiB.", hint="Split the data set.")
    try:
        with (root / table).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [unicodedata.normalize("NFC", cell.strip()) for cell in cells]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table} is not UTF-8 text.", hint="Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DatasetError(f"{table} is no CSV table: {error}.", hint="Save it as CSV with commas.") from error


def _header(table: PurePosixPath, first: tuple[int, list[str]]) -> tuple[str, ...]:
    line, cells = first
    tasks = tuple(cells[1:])
    if not tasks:
        raise DatasetError(f"{table}, line {line}: there is no column with classes.", hint=_HINT)
    for task in tasks:
        if not _TASK.fullmatch(task):
            raise DatasetError(
                f"{table}, line {line}: a task cannot be called {task!r}.",
                hint="Use up to 64 letters, digits, _ and -.",
            )
    twice = [task for task in tasks if tasks.count(task) > 1]
    if twice:
        raise DatasetError(f"{table}, line {line}: two columns are called {twice[0]!r}.", hint="Rename one.")
    return tasks


def _row(
    where: str, cells: list[str], columns: Sequence[str], numbers: Mapping[str, int]
) -> tuple[str, dict[str, str]]:
    if len(cells) != len(columns) + 1:
        raise DatasetError(
            f"{where}: {len(cells)} cells, and the first line has {len(columns) + 1}.",
            hint="Quote cells that hold a comma.",
        )
    name = PurePosixPath(cells[0].replace("\\", "/")).name
    if name not in numbers:
        raise DatasetError(f"{where}: there is no image {cells[0]!r}.", hint="Send the image, or take the line out.")
    return name, dict(zip(columns, cells[1:], strict=True))


def _labels(tasks: Sequence[str], rows: Sequence[Sequence[str]], tables: Sequence[PurePosixPath]) -> TaskLabels:
    classes: dict[str, list[str]] = {}
    labels = np.full((len(rows), len(tasks)), UNLABELLED, np.int64)
    for column, task in enumerate(tasks):
        classes[task] = sorted({row[column] for row in rows} - {""})
        if not classes[task]:
            raise DatasetError(
                f"The column {task} of {', '.join(map(str, tables))} is empty.", hint="Fill it or leave it out."
            )
        numbers = {name: label for label, name in enumerate(classes[task])}
        labels[:, column] = [numbers.get(row[column], UNLABELLED) for row in rows]
    return TaskLabels(classes, labels)
