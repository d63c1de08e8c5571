"""Sets of images and masks: what is read, what is refused and with which file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from prefect_trainyard.datasets.formats import build_index, data_format
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.datasets.manifest import RawFile, RawManifest
from prefect_trainyard.schemas.errors import DatasetError

MakeSet = Callable[..., Path]

TYPE = "semantic_segmentation"
SHAPE = (4, 6)


def grey(*values: int) -> Image.Image:
    return Image.fromarray(np.resize(np.array(values, np.uint8), SHAPE))


def colors(*values: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.resize(np.array(values, np.uint8), (*SHAPE, 3)))


def palette(*values: int) -> Image.Image:
    image = Image.fromarray(np.resize(np.array(values, np.uint8), SHAPE), mode="P")
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    return image


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Return a function that writes a grey image for each mask, below folders of their own."""

    def make(masks: Mapping[str, Image.Image], prefix: str = "", classes: str | None = None, name: str = "raw") -> Path:
        root = tmp_path / name
        for number, (stem, mask) in enumerate(masks.items()):
            for kind, image in (("images", Image.new("RGB", SHAPE[::-1], (number, 9, 9))), ("masks", mask)):
                path = root / f"{prefix}{kind}/{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        if classes is not None:
            (root / "classes.txt").write_text(classes)
        return root

    return make


def built(root: Path):
    target = root.with_name(f"{root.name}-index")
    build_index(root, "unet", target)
    return open_index(target)


def refused(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        build_index(root, "unet", root.with_name("index"))
    assert caught.value.hint
    assert not root.with_name("index").exists()
    return str(caught.value)


def test_the_index_holds_images_and_masks_as_they_were(make_set: MakeSet) -> None:
    root = make_set({"train/b": grey(0, 2), "train/a": grey(0, 1), "val/a": grey(0)})
    index = built(root)
    masks = index.masks()
    assert masks is not None
    assert (index.info.type, index.info.format) == (TYPE, "unet")
    assert [index.path(i) for i in range(3)] == [f"images/{name}.png" for name in ("train/a", "train/b", "val/a")]
    for i, name in enumerate(("train/a", "train/b", "val/a")):
        assert masks.read(i) == (root / f"masks/{name}.png").read_bytes()
        assert index.read(i) == (root / f"images/{name}.png").read_bytes()
    assert [mask.values for mask in masks.values()] == [[0, 1], [0, 2], [0]]
    assert index.info.class_counts == {"0": 3, "1": 1, "2": 1}
    assert set(index.labels.tolist()) == {-1}


def test_the_digest_changes_with_a_pixel_of_a_mask_and_with_the_classes(make_set: MakeSet) -> None:
    pair = {"a": grey(0, 1), "b": grey(1, 1, 0)}
    digests = {
        built(make_set(pair, name="1")).digest,
        built(make_set(pair, name="2", classes="x\ny\n")).digest,
        built(make_set({**pair, "b": grey(1, 0, 0)}, name="3")).digest,
    }
    assert len(digests) == 3
    assert built(make_set(pair, "up/load/", name="4")).digest not in digests
    assert built(make_set(pair, name="5")).digest in digests


@pytest.mark.parametrize(
    ("masks", "classes", "labels"),
    [
        ([grey(0, 1), grey(3)], ["0", "1", "3"], [0, 1, 0]),
        ([palette(0, 1), palette(2)], ["0", "1", "2"], [0, 1, 0]),
        ([grey(0, 1).convert("RGB"), grey(1)], ["0", "1"], [0, 1, 0]),
        ([grey(0, 255), grey(0)], ["0", "255"], [0, 1, 0]),
        ([grey(0, 1, 255), grey(1)], ["0", "1"], [0, 1, 255]),
        ([Image.fromarray(np.resize(np.array([0, 700], np.uint16), SHAPE))], ["0", "700"], [0, 1, 0]),
        ([colors((0, 0, 0), (128, 0, 0)), colors((0, 0, 0))], ["0", "#800000"], [0, 1, 0]),
    ],
)
def test_index_masks_and_colours_are_read(make_set: MakeSet, masks, classes: list[str], labels: list[int]) -> None:
    index = built(make_set({str(i): mask for i, mask in enumerate(masks)}))
    found = index.masks()
    assert found is not None
    assert index.classes == classes
    assert found.classes.label_map(found.mask(0)).flatten()[:3].tolist() == labels


def test_classes_txt_names_indices_and_colours(make_set: MakeSet) -> None:
    assert built(make_set({"a": grey(0, 1)}, classes="sky\nroad\ncar\n", name="1")).info.class_counts == {
        "sky": 1,
        "road": 1,
        "car": 0,
    }
    black_white = built(make_set({"a": grey(0, 255)}, classes="background\ncell\n", name="2"))
    assert black_white.info.class_counts == {"background": 1, "cell": 1}
    voc = "background 0 0 0\na plane 128 0 0\nignore 224 224 192\n"
    colored = built(make_set({"a": colors((0, 0, 0), (128, 0, 0), (224, 224, 192))}, classes=voc, name="3"))
    masks = colored.masks()
    assert masks is not None
    assert colored.classes == ["background", "a plane"]
    assert masks.classes.label_map(masks.mask(0)).flatten()[:3].tolist() == [0, 1, 255]


def test_a_value_of_no_class_is_refused_with_its_file(make_set: MakeSet) -> None:
    message = refused(make_set({"a": grey(0, 1), "b": grey(0, 7, 9), "c": grey(7)}, classes="x\ny\n"))
    assert "masks/b.png holds values that are of no class: 7, 9. So do 1 more masks." in message
    assert "0 (x), 1 (y)" in message
    message = refused(make_set({"a": colors((0, 0, 0), (9, 8, 7))}, classes="x 0 0 0\ny 1 2 3\n", name="2"))
    assert "masks/a.png holds values that are of no class: #090807" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x\ny\nx\n", "line 3: the class 'x' is there twice"),
        ("x 1 2 3\ny\n", "line 2: no colour"),
        ("x 1 2 3\ny 1 2 3\n", "line 2: the colour #010203 is there twice"),
        ("\n", "lists no class"),
    ],
)
def test_a_wrong_class_list_is_refused_with_its_line(make_set: MakeSet, text: str, words: str) -> None:
    assert words in refused(make_set({"a": grey(0, 1)}, classes=text))


def test_what_is_alone_is_named(make_set: MakeSet) -> None:
    root = make_set({"a": grey(0, 1), "b": grey(0)})
    (root / "masks/b.png").unlink()
    assert "There is no mask for images/b.png." in refused(root)
    (root / "images/b.png").rename(root / "masks/b.png")
    assert "There is no image for masks/b.png." in refused(root)


def test_broken_and_unfitting_masks_are_named(make_set: MakeSet) -> None:
    root = make_set({"a": grey(0, 1), "b": grey(0)})
    Image.new("L", (3, 3)).save(root / "masks/b.png")
    assert "masks/b.png has 3 x 3 pixels, and images/b.png has 6 x 4" in refused(root)
    (root / "masks/b.png").write_bytes(b"no image")
    assert "masks/b.png is not an image" in refused(root)
    (root / "masks/b.png").rename(root / "masks/b.jpg")
    assert "masks/b.jpg is a mask in a format" in refused(root)


def test_a_photograph_is_no_mask(make_set: MakeSet) -> None:
    root = make_set({"a": grey(0, 1)})
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for kind in ("images", "masks"):
        Image.fromarray(noise).save(root / kind / "b.png")
    assert "masks/b.png holds" in refused(root)


def test_strays_and_odd_files_are_refused(make_set: MakeSet) -> None:
    root = make_set({"a": grey(0, 1)})
    (root / "images/notes.docx").write_bytes(b"?")
    assert "images/notes.docx" in refused(root)
    (root / "images/notes.docx").unlink()
    Image.new("L", (3, 3)).save(root / "stray.png")
    assert "In neither `images` nor `masks`: stray.png" in refused(root)
    (root / "stray.png").unlink()
    (root / "masks/README.md").write_text("words")
    assert len(built(root)) == 1


def test_pieces_are_checked_alone_and_as_a_whole(make_set: MakeSet) -> None:
    """The tutorials cut an archive anywhere: a piece may hold images and another their masks."""
    unet = data_format("unet", TYPE)
    root = make_set({"a": grey(0, 1), "b": grey(1)}, "some/where/")
    whole = unet.read_piece(root)
    assert {str(s): str(p.target) for s, p in whole.items()}["some/where/masks/a.png"] == "masks/a.png"
    files = {
        str(p.target): RawFile(path=str(p.target), size_bytes=1, sha256="", mask_values=p.mask_values)
        for p in whole.values()
    }
    assert unet.class_counts(files, lambda _: b"") == {"0": 1, "1": 2}

    def manifest(names: list[str], classes: dict[str, int]) -> RawManifest:
        return RawManifest(type=TYPE, format="unet", files=[files[n] for n in names], digest="", classes=classes)

    unet.require_trainable(manifest(sorted(files), {"0": 1, "1": 2}))
    with pytest.raises(DatasetError, match=r"no mask for images/b\.png"):
        unet.require_trainable(manifest(["images/a.png", "images/b.png", "masks/a.png"], {"0": 1, "1": 1}))
    with pytest.raises(DatasetError, match="only '1' occurs"):
        unet.require_trainable(manifest(["images/b.png", "masks/b.png"], {"1": 1}))
    for image in (root / "some/where/images").iterdir():
        image.unlink()
    assert set(unet.read_piece(root)) == {PurePosixPath(f"some/where/masks/{name}.png") for name in "ab"}
    listed = {**files, "classes.txt": RawFile(path="classes.txt", size_bytes=1, sha256="")}
    with pytest.raises(DatasetError, match=r"masks/.\.png holds values that are of no class: 1"):
        unet.class_counts(listed, lambda _: b"only\n")


def test_raw_images_have_no_masks_to_learn_from() -> None:
    with pytest.raises(DatasetError, match="no masks"):
        data_format("raw", TYPE).require_trainable(
            RawManifest(type=TYPE, format="raw", files=[], digest="", classes={})
        )
    with pytest.raises(DatasetError, match="'kitti'"):
        data_format("kitti", TYPE)
