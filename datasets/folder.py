"""What lies in a folder that a user sent: its files by name, without what systems and editors leave behind."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from .names import name_problem

_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "lost+found"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderContent:
    """Files and folders below `root`, sorted, as relative paths with forward slashes."""

    root: Path
    files: tuple[PurePosixPath, ...]
    folders: tuple[PurePosixPath, ...]

    def seen(self) -> str:
        """Return one line that shows a user what was found where."""
        if not self.files:
            return "The folder is empty." if not self.folders else "There are folders, but no file in them."
        counts = Counter(file.parent for file in self.files)
        shown = [f"{folder}/ ({_files(n)})" if folder.parts else _files(n) for folder, n in list(counts.items())[:8]]
        more = f", and {len(counts) - 8} more folders" if len(counts) > 8 else ""
        return f"Found: {', '.join(shown)}{more}."


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def read_folder(root: Path) -> FolderContent:
    """Return what lies below `root`, without hidden files and the litter of operating systems.

    Raises:
        DatasetError: a link, a device, or a name that is not UTF-8 or does not print.
    """
    files: list[PurePosixPath] = []
    folders: list[PurePosixPath] = []
    todo = [PurePosixPath()]
    while todo:
        parent = todo.pop()
        with os.scandir(root / parent) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                    continue
                path = parent / entry.name
                if problem := name_problem(entry.name):
                    raise DatasetError(f"The name {str(path)!a} {problem}.", hint="Rename it.")
                if entry.is_symlink():
                    raise DatasetError(f"{path} is a link.", hint="Put the file itself there.")
                if entry.is_dir():
                    folders.append(path)
                    todo.append(path)
                elif entry.is_file():
                    files.append(path)
                else:
                    raise DatasetError(f"{path} is neither a file nor a folder.", hint="Leave it out.")
    return FolderContent(root=root, files=tuple(sorted(files)), folders=tuple(sorted(folders)))
