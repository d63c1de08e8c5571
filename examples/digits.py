"""Write the 1,797 handwritten digits that scikit-learn ships as PNG folders and as archives to upload.

    python examples/digits.py OUT

gives, with a fixed split of 70/15/15 in which every digit has its share:

    OUT/train/images/<0..9>/*.png            train_1.tar.gz and train_2.tar.gz: two halves that merge
    OUT/eval/images/<0..9>/*.png             eval.tar.gz
    OUT/test/images/*.png                    test_raw.tar.gz: no labels, for inference
    OUT/test_labelled/images/<0..9>/*.png    test_labelled.tar.gz: the same images with labels
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 2024


def write_digits(out: Path, size: int = 32) -> list[Path]:
    """Write folders and archives below `out` and return the archives. `size` is the side of an image in pixels.

    The same call writes the same bytes every time.
    """
    digits = load_digits()
    labels = digits.target
    train, rest = train_test_split(np.arange(len(labels)), train_size=0.7, stratify=labels, random_state=SEED)
    evaluation, test = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=SEED)

    def write(split: str, numbers: Iterable[int], labelled: bool) -> list[Path]:
        written = []
        for number in sorted(int(n) for n in numbers):
            folder = out / split / "images" / (str(labels[number]) if labelled else "")
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"digit_{number:04d}.png"
            # why: the scans have 17 grey levels, 0 to 16.
            scan = Image.fromarray((digits.images[number] * 255 / 16).astype(np.uint8))
            scan.resize((size, size), Image.Resampling.BICUBIC).save(path)
            written.append(path)
        return written

    train_files = write("train", train, labelled=True)
    contents = {
        "train_1": ("train", train_files[0::2]),
        "train_2": ("train", train_files[1::2]),
        "eval": ("eval", write("eval", evaluation, labelled=True)),
        "test_raw": ("test", write("test", test, labelled=False)),
        "test_labelled": ("test_labelled", write("test_labelled", test, labelled=True)),
    }
    return [_pack(out / f"{name}.tar.gz", out / split, files) for name, (split, files) in contents.items()]


def _pack(archive: Path, base: Path, files: list[Path]) -> Path:
    # why: no times and no owners inside, so that the same digits give the same archive.
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in files:
            member = tarfile.TarInfo(path.relative_to(base).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(member, content)
    return archive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to; it is made when it does not exist")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels (default 32)")
    arguments = parser.parse_args()
    for path in write_digits(arguments.out, arguments.size):
        print(path)
