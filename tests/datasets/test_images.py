from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from prefect_trainyard.datasets.images import decode_rgb, image_size
from prefect_trainyard.schemas.errors import DatasetError


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_images_come_back_as_they_were(format: str) -> None:
    content = encode(gradient(), format)
    assert image_size(content, "x") == (60, 40)
    assert (np.asarray(decode_rgb(content, "x")) == np.asarray(gradient())).all()


@pytest.mark.parametrize("format", ["JPEG", "GIF", "WEBP"])
def test_other_kinds_decode_to_rgb(format: str) -> None:
    image = decode_rgb(encode(gradient(), format), "x")
    assert (image.mode, image.size) == ("RGB", (60, 40))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_without_a_warning(mode: str) -> None:
    content = encode(gradient().convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(content, "x").mode == "RGB"


def test_a_palette_with_transparent_colours_becomes_rgb_without_a_warning() -> None:
    content = encode(gradient().convert("P"), "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(content, "x").mode == "RGB"


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    image = decode_rgb(encode(Image.fromarray(levels), "PNG"), "x")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_by_its_exif_data(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(gradient(), "PNG", exif=exif)
    upright = decode_rgb(content, "x")
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(np.asarray(upright), np.asarray(ImageOps.exif_transpose(image)))
    assert image_size(content, "x") == upright.size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("broken", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40)])
def test_broken_exif_data_does_not_matter(broken: bytes) -> None:
    content = encode(gradient(), "JPEG", exif=broken)
    assert image_size(content, "x") == decode_rgb(content, "x").size == (60, 40)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_image_is_refused(format: str) -> None:
    content = encode(gradient(), format)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DatasetError, match=r"^cats/1\.img "):
            image_size(content[: int(len(content) * share)], "cats/1.img")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", bytes(500)])
def test_what_is_no_image_is_refused_by_name(content: bytes) -> None:
    for read in (image_size, decode_rgb):
        with pytest.raises(DatasetError, match=r"^a/b\.png "):
            read(content, "a/b.png")


def test_a_damaged_png_is_refused() -> None:
    content = bytearray(encode(gradient(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DatasetError, match="does not decode"):
        image_size(bytes(content), "x")


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1), (1, 2**30)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DatasetError, match="80 million pixels"):
            image_size(huge_png(width, height), "bomb.png")


def test_a_bomb_in_the_text_of_a_png_is_refused() -> None:
    text = b"k\0\0" + zlib.compress(bytes(200 * 2**20))
    content = encode(gradient(), "PNG")
    with pytest.raises(DatasetError, match=r"^bomb\.png"):
        image_size(content[:33] + png_chunk(b"zTXt", text) + content[33:], "bomb.png")


def test_kinds_that_run_other_programs_are_refused() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(DatasetError, match="not an image"):
        image_size(postscript, "x.png")


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(DatasetError, match="32-bit"):
        image_size(encode(Image.fromarray(np.zeros((3, 3), dtype=np.float32)), "TIFF"), "x.tif")
