"""The augment service: a detection set with changed copies of its pictures, in the same format.

Geometry (flips, rotation, shear, shift, zoom) is one affine map a copy; boxes are the bounds of what the map makes of
their mask, or of their corners where they have none, and are cut off at the picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter, SilentReporter
from .box_folder import ReadOptions
from .box_formats import FORMATS, LABELLED, read_boxes, write_annotations
from .boxes import Box, BoxSet, Picture, Polygons, RunLengths, to_pixels
from .image_folder import read_image
from .images import decode_rgb
from .new_folder import new_folder
from .parallel import map_in_order
from .run_lengths import decode_runs, encode_runs

Floats = npt.NDArray[np.float64]

_PADDING = (114, 114, 114)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentOptions:
    """What copies look like. Ranges are drawn from evenly, to both sides of nothing; the defaults change nothing."""

    copies: int = 1
    """Of each picture."""
    keep_originals: bool = True
    seed: int = 0
    flip_horizontal: float = 0.0
    """Probability."""
    flip_vertical: float = 0.0
    rotation: float = 0.0
    """Up to so many degrees."""
    shear: float = 0.0
    """Up to so many degrees."""
    shift: float = 0.0
    """Up to this share of width and height."""
    zoom: float = 0.0
    """Up to this factor more: 0.5 is 1/1.5 to 1.5 times."""
    brightness: float = 0.0
    """Up to this share, as the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Up to this part of the colour circle."""
    blur: float = 0.0
    """Radius in pixels, from 0 up to this."""
    noise: float = 0.0
    """Standard deviation in grey levels, from 0 up to this."""
    min_visible: float = 0.3
    """Boxes that keep less of their area are left out."""


def augment_boxes(
    source: Path,
    format: str,
    destination: Path,
    augmentation: AugmentOptions,
    *,
    options: ReadOptions | None = None,
    reporter: Reporter | None = None,
) -> BoxSet:
    """Write the set below `source` with changed copies as the folder `destination` and return what is there.

    The same set, options and seed give the same files. The folder appears whole or not at all.

    Raises:
        DatasetError: something is wrong with the set, or its format has no annotations.
        StorageFull: no room left.
    """
    reporter = reporter or SilentReporter()
    if format not in LABELLED:
        raise DatasetError(f"The format {format!r} has no boxes.", hint=f"Use one of {', '.join(LABELLED)}.")
    found = read_boxes(source, format, options)
    images = PurePosixPath(FORMATS[format].images_folder)
    if augmentation.keep_originals:
        _refuse_taken_names(found, augmentation.copies)
    tasks = [(picture, copy) for picture in found.pictures for copy in range(1, augmentation.copies + 1)]
    made: list[Picture] = []
    with new_folder(destination, "write the augmented data set") as folder:
        if augmentation.keep_originals:
            for picture in found.pictures:
                target = images / picture.name
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / picture.path, folder / target)
                made.append(dataclasses.replace(picture, path=target))

        def write(task: tuple[Picture, int]) -> Picture:
            picture, copy = task
            return _write_copy(source, folder, images, picture, copy, augmentation)

        step = max(1, len(tasks) // 50)
        for number, picture in enumerate(map_in_order(write, tasks), start=1):
            made.append(picture)
            if number % step == 0 or number == len(tasks):
                reporter.progress(number / len(tasks), f"{number} of {len(tasks)} pictures written")
        result = dataclasses.replace(
            found, root=destination, pictures=tuple(sorted(made, key=lambda picture: picture.name))
        )
        write_annotations(result, format, folder)
    return result


def _copy_name(name: PurePosixPath, copy: int) -> PurePosixPath:
    suffix = ".jpg" if name.suffix.lower() in {".jpg", ".jpeg", ".jpe"} else ".png"
    return name.with_name(f"{name.stem}_aug{copy}{suffix}")


def _refuse_taken_names(boxes: BoxSet, copies: int) -> None:
    taken = {picture.name.with_suffix("") for picture in boxes.pictures}
    for picture in boxes.pictures:
        for copy in range(1, copies + 1):
            name = _copy_name(picture.name, copy)
            if name.with_suffix("") in taken:
                raise DatasetError(f"The set has a picture {name} already.", hint="Augment the original set.")


def _write_copy(
    source: Path, folder: Path, images: PurePosixPath, picture: Picture, copy: int, options: AugmentOptions
) -> Picture:
    # why: by name, so that a picture has the same copies whatever else is in the set.
    key = hashlib.sha256(f"{options.seed} {copy} {picture.name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(key, np.uint32))
    size = picture.width, picture.height
    matrix = draw_matrix(size, options, rng)
    image = decode_rgb(read_image(source, picture.path), str(picture.path))
    if not np.array_equal(matrix, np.eye(3)):
        back = np.linalg.inv(matrix)[:2].ravel().tolist()
        image = image.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=_PADDING)
    image = change_pixels(image, options, rng)
    name = _copy_name(picture.name, copy)
    file = folder / images / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.suffix == ".jpg":
        image.save(file, quality=95, subsampling=0)
    else:
        image.save(file)
    boxes = tuple(_moved(picture.boxes, matrix, size, options.min_visible))
    return dataclasses.replace(picture, path=images / name, name=name, boxes=boxes, id=None)


def draw_matrix(size: tuple[int, int], options: AugmentOptions, rng: np.random.Generator) -> Floats:
    """Return a random affine map of pixels as a 3 x 3 matrix; it turns around the middle of the picture."""
    middle = _shift(-size[0] / 2, -size[1] / 2)
    flip_x = -1.0 if rng.random() < options.flip_horizontal else 1.0
    flip_y = -1.0 if rng.random() < options.flip_vertical else 1.0
    zoom = math.exp(rng.uniform(-1, 1) * math.log1p(options.zoom))
    angle = math.radians(rng.uniform(-1, 1) * options.rotation)
    slant = math.tan(math.radians(rng.uniform(-1, 1) * options.shear))
    shift_x, shift_y = rng.uniform(-1, 1, 2) * options.shift
    scale = np.diag([flip_x * zoom, flip_y * zoom, 1.0])
    shear = np.array([[1.0, slant, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    back = _shift(size[0] * (0.5 + shift_x), size[1] * (0.5 + shift_y))
    return np.asarray(back @ turn @ shear @ scale @ middle)


def _shift(x: float, y: float) -> Floats:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def change_pixels(image: Image.Image, options: AugmentOptions, rng: np.random.Generator) -> Image.Image:
    """Return the image with other colours, blurred and with noise."""
    enhancers = (
        (ImageEnhance.Brightness, options.brightness),
        (ImageEnhance.Contrast, options.contrast),
        (ImageEnhance.Color, options.saturation),
    )
    for enhance, strength in enhancers:
        if strength > 0:
            image = enhance(image).enhance(max(0.0, 1 + rng.uniform(-strength, strength)))
    if options.hue > 0:
        hue, saturation, value = image.convert("HSV").split()
        turn = round(rng.uniform(-options.hue, options.hue) * 256)
        turned = Image.fromarray(((np.asarray(hue).astype(np.int16) + turn) % 256).astype(np.uint8))
        image = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    if options.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, options.blur)))
    if options.noise > 0:
        pixels = np.asarray(image).astype(np.float32)
        pixels = pixels + rng.normal(0, rng.uniform(0, options.noise), pixels.shape).astype(np.float32)
        image = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    return image


def _moved(boxes: tuple[Box, ...], matrix: Floats, size: tuple[int, int], min_visible: float) -> Iterator[Box]:
    """Yield what is left of the boxes; those that keep too little of their area are left out."""
    if np.array_equal(matrix, np.eye(3)):
        yield from (dataclasses.replace(box, id=None) for box in boxes)
        return
    limits = np.array(size, dtype=np.float64)
    growth = abs(float(np.linalg.det(matrix[:2, :2])))
    for box in boxes:
        mask, points = _moved_mask(box, matrix, size)
        if not len(points):
            continue
        whole = points.max(axis=0) - points.min(axis=0)
        low, high = np.clip(points.min(axis=0), 0, limits), np.clip(points.max(axis=0), 0, limits)
        seen = float(np.prod(high - low))
        # why: a mask ends at the picture, so that its bounds do not tell how much was cut off.
        before = box.width * box.height * growth if isinstance(mask, RunLengths) else float(whole.prod())
        visible = min(1.0, seen / before)
        x1, y1, x2, y2 = map(to_pixels, (*low.tolist(), *high.tolist()))
        if visible < min_visible or x2 - x1 < 1 or y2 - y1 < 1:
            continue
        yield dataclasses.replace(
            box,
            x1=x1,
            y1=y1,
            x2=x2,
            y2=y2,
            mask=mask,
            area=_area(box, mask, growth, visible),
            # why: what lies outside now is truncated; what nobody knew (-1) stays unknown.
            truncated=box.truncated if box.truncated < 0 else max(box.truncated, round(1 - visible, 2)),
            # why: the third dimension does not turn with the picture.
            kitti_3d=(),
            id=None,
        )


def _area(box: Box, mask: Polygons | RunLengths | None, growth: float, visible: float) -> float | None:
    if isinstance(mask, RunLengths):
        return float(sum(mask.counts[1::2])) if not isinstance(mask.counts, str) else None
    return None if box.area is None else to_pixels(box.area * growth * visible)


def _moved_mask(box: Box, matrix: Floats, size: tuple[int, int]) -> tuple[Polygons | RunLengths | None, Floats]:
    """Return the mask after the map, and points (N2) whose bounds are those of the object, in pixels."""
    if isinstance(box.mask, RunLengths):
        pixels = Image.fromarray(decode_runs(box.mask))
        back = np.linalg.inv(matrix)[:2].ravel().tolist()
        moved = np.asarray(pixels.transform(size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST))
        rows, columns = np.nonzero(moved)
        corners = [(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)] if len(rows) else []
        return encode_runs(moved), np.array(corners, dtype=np.float64).reshape(-1, 2)
    if box.mask is not None:
        parts = [_mapped(np.array(part).reshape(-1, 2), matrix) for part in box.mask.parts]
        cut = [np.clip(part, 0, size) for part in parts]
        flat = tuple(tuple(to_pixels(float(value)) for value in part.ravel()) for part in cut)
        return Polygons(flat), np.concatenate(parts)
    corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]
    return None, _mapped(np.array(corners), matrix)


def _mapped(points_N2: Floats, matrix: Floats) -> Floats:
    return np.asarray(points_N2 @ matrix[:2, :2].T + matrix[:2, 2])
