"""Write scenes for semantic segmentation: handwritten digits of scikit-learn on a noisy ground, with their masks.

    python examples/scenes.py OUT

gives folders and archives to upload, in the layout of the format `unet`:

    OUT/train/images/*.png, OUT/train/masks/*.png, OUT/train/classes.txt    train_1.tar.gz and train_2.tar.gz
    OUT/eval/...                                                            eval.tar.gz

The classes are background, zero and one; the pixels of the masks hold 0, 1 and 2. No digit is in both sets.
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SEED = 2025
CLASSES = ("background", "zero", "one")

#: Scenes in each set.
COUNTS = {"train": 48, "eval": 16}


def write_scenes(out: Path, size: int = 64, counts: dict[str, int] | None = None) -> list[Path]:
    """Write folders and archives below `out` and return the archives. `size` is the side of a scene in pixels.

    The same call writes the same bytes every time.
    """
    data = load_digits()
    archives = []
    for part, (split, count) in enumerate((counts or COUNTS).items()):
        random = np.random.default_rng((SEED, part))
        # why: every second digit, so that evaluation shows hands that training has not seen.
        pool = [data.images[data.target == digit][part::2] for digit in (0, 1)]
        folder = out / split
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        for number in range(count):
            image, mask = draw_scene(random, pool, size)
            Image.fromarray(image).save(folder / "images" / f"scene_{number:03d}.png")
            Image.fromarray(mask).save(folder / "masks" / f"scene_{number:03d}.png")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        pieces = {f"{split}_1": files[0::2], f"{split}_2": files[1::2]} if split == "train" else {split: files}
        archives += [_pack(out / f"{name}.tar.gz", folder, content) for name, content in pieces.items()]
    return archives


def draw_scene(
    random: np.random.Generator, pool: list[np.ndarray], size: int, per_side: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Return a colour image and its mask, with a digit in most cells of a grid of `per_side` x `per_side`."""
    canvas = random.normal(70, 12, (size, size))
    mask = np.zeros((size, size), np.uint8)
    cell = size // per_side
    for row in range(per_side):
        for column in range(per_side):
            if random.random() < 0.2:
                continue
            digit = int(random.integers(len(pool)))
            scan = pool[digit][random.integers(len(pool[digit]))]
            side = int(cell * random.uniform(0.7, 1.0))
            picture = Image.fromarray((scan * 255 / 16).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            ink = np.asarray(picture, np.float64)
            top = row * cell + int(random.integers(cell - side + 1))
            left = column * cell + int(random.integers(cell - side + 1))
            place = (slice(top, top + side), slice(left, left + side))
            canvas[place] = np.maximum(canvas[place], ink)
            mask[place][ink > 100] = digit + 1
    tint = random.uniform(0.7, 1.0, 3)
    return np.clip(canvas[..., None] * tint, 0, 255).astype(np.uint8), mask


def _pack(archive: Path, base: Path, files: list[Path]) -> Path:
    # why: no times and no owners inside, so that the same scenes give the same archive.
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
    parser.add_argument("--size", type=int, default=64, help="side of a scene in pixels (default 64)")
    arguments = parser.parse_args()
    for path in write_scenes(arguments.out, arguments.size):
        print(path)
