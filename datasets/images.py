"""One image: decode it safely, say what is wrong with it, and return it as RGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..schemas.errors import DatasetError

#: File names with these endings are images; the content decides which kind.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)

# why: Pillow knows some 40 formats, among them EPS, which starts Ghostscript. Uploads meet only these decoders.
_DECODERS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

#: An image of more pixels is refused before it is decoded: 80 million are 240 MB as RGB.
MAX_PIXELS = 80_000_000

#: An image file of more bytes is refused before it is read.
MAX_FILE_BYTES = 256 * 2**20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn all that Pillow raises for bad content into a `DatasetError` that starts with `name`."""
    try:
        yield
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{name} is not an image that can be read.", hint=f"Readable are {', '.join(_DECODERS)}."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(name) from error
    except MemoryError as error:
        raise DatasetError(f"{name} needs more memory than there is.", hint="Send a smaller image.") from error
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{name} does not decode: {detail}.", hint="Send the file again or leave it out.") from error


def _too_many_pixels(name: str) -> DatasetError:
    return DatasetError(
        f"{name} has more than {MAX_PIXELS // 10**6} million pixels.", hint="Scale it down or cut it into tiles."
    )


def _decode(content: bytes, name: str, at_least: tuple[int, int] | None = None) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=_DECODERS)
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(name)
    if image.mode in {"I", "F"}:
        raise DatasetError(
            f"{name} has 32-bit pixels, whose range is unknown.", hint="Save it with 8 or 16 bits per channel."
        )
    if at_least is not None and image.format == "JPEG":
        # why: a JPEG decodes to a half, quarter or eighth in a fraction of the time.
        image.draft(None, at_least[::-1] if _orientation(image) in {5, 6, 7, 8} else at_least)
    image.load()
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, when there is none or it is broken."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001 why: many cameras and tools write broken EXIF, and the pixels are fine
        return 1


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """Decode the whole image and return width and height in pixels, as `decode_rgb` gives them.

    Raises:
        DatasetError: it does not decode or is too large; the message starts with `name`.
    """
    with _named(name):
        image = _decode(content, name)
        # why: orientations 5 to 8 turn the image by a quarter.
        return (image.height, image.width) if _orientation(image) in {5, 6, 7, 8} else image.size


def decode_as_stored(content: bytes, name: str) -> Image.Image:
    """Return the image (the first frame of several) in the mode and orientation that its file has.

    Raises:
        DatasetError: it does not decode or is too large; the message starts with `name`.
    """
    with _named(name):
        return _decode(content, name)


def header_size(file: Path, name: str) -> tuple[int, int]:
    """Return width and height as `image_size` does, from the first bytes of a file: its pixels are not decoded.

    Raises:
        DatasetError: the file is no image or has too many pixels; the message starts with `name`.
    """
    with _named(name), Image.open(file, formats=_DECODERS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_many_pixels(name)
        return (image.height, image.width) if _orientation(image) in {5, 6, 7, 8} else image.size


def decode_rgb(content: bytes, name: str, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Return the image (the first frame of several) upright by its EXIF data, in mode RGB.

    16-bit grey is scaled to 8 bits and transparency is dropped. A JPEG may come out smaller than it is, but not
    smaller than `at_least` (width, height): for those who scale it down to that anyway.

    Raises:
        DatasetError: it does not decode or is too large; the message starts with `name`.
    """
    with _named(name):
        image = _decode(content, name, at_least)
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        if image.mode == "RGB":
            return image
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode == "P" and "transparency" in image.info:
            # why: Pillow warns about a palette with transparency unless it goes through RGBA.
            image = image.convert("RGBA")
        return image.convert("RGB")
