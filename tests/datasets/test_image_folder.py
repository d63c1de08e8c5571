from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image
from prefect_trainyard.datasets.image_folder import LABELLED, RAW, canonical_paths, check_layout, scan_images
from prefect_trainyard.schemas.errors import DatasetError

TWO = ["images/cat/1.png", "images/cat/2.jpg", "images/dog/1.png"]


def refused(root: Path, format: str = "default", *, for_training: bool = False) -> str:
    with pytest.raises(DatasetError) as caught:
        check_layout(root, format, for_training=for_training)
    assert caught.value.hint
    assert str(root) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", LABELLED)
@pytest.mark.parametrize(
    "prefix", ["images/", "images_train/", "Images/", "upload/images/", "a/b/c/images_2012/", "", "flowers/", "a/b/"]
)
def test_classes_are_found_below_leading_folders(make_images, format: str, prefix: str) -> None:
    root = make_images([f"{prefix}cat/1.png", f"{prefix}cat/2.JPG", f"{prefix}dog/1.png"])
    report = check_layout(root, format, for_training=True)
    assert report.count == 3
    assert report.classes == {"cat": 2, "dog": 1}


def test_classes_are_in_the_order_of_their_names(make_images) -> None:
    root = make_images([f"images/{name}/1.png" for name in ("b", "10", "2", "a", "Z")])
    assert list(check_layout(root, "default").classes) == ["10", "2", "Z", "a", "b"]


@pytest.mark.parametrize("place", ["images/classes.txt", "classes.txt"])
def test_classes_txt_gives_the_order(make_images, place: str) -> None:
    root = make_images(TWO)
    (root / place).write_text("\ufeffdog\r\n\r\n  cat  \nbird\n", encoding="utf-8")
    assert check_layout(root, "default").classes == {"dog": 1, "cat": 2, "bird": 0}
    assert [image.label for image in scan_images(root, "default").images] == [1, 1, 0]


def test_classes_txt_and_folders_agree_in_any_unicode_form(make_images) -> None:
    root = make_images(["images/e\u0301cole/1.png", "images/b/1.png"])
    (root / "classes.txt").write_text("\u00e9cole\nb\n", encoding="utf-8")
    assert check_layout(root, "default").classes == {"\u00e9cole": 1, "b": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"cat\n", ["'dog'", "classes.txt", "cat"]),
        (b"cat\ndog\ncat\n", ["line 3", "'cat'", "line 1"]),
        (b"\n \n", ["no class"]),
        (b"caf\xe9\ndog\n", ["UTF-8"]),
        (b"x" * (2**20 + 5), ["1 MiB"]),
    ],
)
def test_a_wrong_classes_txt_is_refused(make_images, text: bytes, words: list[str]) -> None:
    root = make_images(TWO)
    (root / "classes.txt").write_bytes(text)
    message = refused(root)
    assert all(word in message for word in words)


def test_two_class_lists_are_refused(make_images) -> None:
    root = make_images(TWO)
    for place in ("classes.txt", "images/classes.txt"):
        (root / place).write_text("cat\ndog\n")
    assert "two class lists" in refused(root)


def test_a_class_list_inside_a_class_is_refused(make_images) -> None:
    root = make_images(TWO)
    (root / "images/cat/classes.txt").write_text("cat\ndog\n")
    assert "images/cat/classes.txt" in refused(root)


def test_raw_images_lie_anywhere_and_have_no_labels(make_images) -> None:
    root = make_images(["1.png", "images/2.png", "a/b/c/3.png"])
    report = check_layout(root, RAW)
    assert (report.count, report.classes) == (3, {})
    assert {image.label for image in scan_images(root, RAW).images} == {-1}


def test_litter_and_known_files_are_ignored(make_images) -> None:
    root = make_images([*TWO, "__MACOSX/images/cat/x.png"])
    for litter in (".DS_Store", "images/cat/._1.png", "images/Thumbs.db", "images/dog/desktop.ini", ".git/config"):
        (root / litter).parent.mkdir(exist_ok=True)
        (root / litter).write_bytes(b"litter")
    for known in ("README.md", "images/LICENSE", "images/cat/license.txt", "train.csv"):
        (root / known).write_text("text")
    assert check_layout(root, "default").count == 3


@pytest.mark.parametrize("format", ["default", RAW])
@pytest.mark.parametrize("name", ["images/cat/notes.docx", "images/labels.json", "run.sh", "images/cat/1.npy"])
def test_unknown_files_are_refused_by_name(make_images, format: str, name: str) -> None:
    root = make_images(TWO)
    (root / name).write_bytes(b"?")
    message = refused(root, format)
    assert name in message
    assert "images/cat/ (" in message


@pytest.mark.parametrize("format", ["default", RAW])
def test_an_archive_inside_is_named(make_images, format: str) -> None:
    root = make_images(TWO)
    (root / "images/more.tar.gz").write_bytes(b"?")
    assert "images/more.tar.gz is an archive" in refused(root, format)


@pytest.mark.parametrize("format", ["default", RAW])
def test_an_empty_set_is_refused(tmp_path: Path, format: str) -> None:
    assert "no files" in refused(tmp_path / "nowhere", format)
    assert "The folder is empty" in refused(tmp_path, format)
    (tmp_path / "images/cat").mkdir(parents=True)
    (tmp_path / "images/dog").mkdir()
    assert "no image" in refused(tmp_path, format)
    (tmp_path / "README.txt").write_text("nothing")
    assert "no image" in refused(tmp_path, format)


def test_one_class_is_refused_for_training_only(make_images) -> None:
    root = make_images(["images/cat/1.png", "images/cat/2.png"])
    assert check_layout(root, "default").classes == {"cat": 2}
    assert "at least two classes, found only 'cat'" in refused(root, for_training=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    assert "at least two classes, found only 'cat'" in refused(root, for_training=True)


@pytest.mark.parametrize("path", ["images/stray.png", "stray.png", "images/cat/deep/er.png", "other/cat/1.png"])
def test_images_in_no_class_folder_are_refused(make_images, path: str) -> None:
    message = refused(make_images([*TWO, path]))
    assert f"In no class folder: {path}." in message
    assert "Found:" in message


def test_images_without_any_folder_are_refused_with_what_was_seen(make_images) -> None:
    message = refused(make_images(["1.png", "2.png"]))
    assert "In no class folder: 1.png, 2.png. Found: 2 files." in message
    assert "images/<class>/" in message


def test_a_train_and_val_tree_is_refused_with_what_was_seen(make_images) -> None:
    message = refused(make_images(["train/cat/1.png", "train/dog/1.png", "val/cat/1.png"]))
    assert "train/cat/ (1 file), train/dog/ (1 file), val/cat/ (1 file)" in message


def test_two_images_folders_are_refused(make_images) -> None:
    message = refused(make_images(["images_train/cat/1.png", "images_val/cat/1.png"]))
    assert "images_train, images_val" in message


def test_an_empty_class_folder_is_refused(make_images) -> None:
    root = make_images(TWO)
    (root / "images/bird").mkdir()
    assert "images/bird" in refused(root)


def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(make_images) -> None:
    assert "same name" in refused(make_images(["images/e\u0301/1.png", "images/\u00e9/1.png"]))


def test_an_unknown_format_is_refused(make_images) -> None:
    message = refused(make_images(TWO), "kitti")
    assert "'kitti'" in message
    assert "classification_pyt" in message


def test_links_and_pipes_are_refused(make_images, tmp_path: Path) -> None:
    root = make_images(TWO)
    (root / "images/cat/link.png").symlink_to("/etc/passwd")
    assert "images/cat/link.png is a link" in refused(root)
    (root / "images/cat/link.png").unlink()
    os.mkfifo(root / "images/cat/pipe.png")
    assert "images/cat/pipe.png is neither" in refused(root)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\nb.png", "\u202egnp.png".encode()])
def test_names_that_do_not_print_are_refused(make_images, name: bytes) -> None:
    root = make_images(TWO)
    (root / os.fsdecode(b"images/cat/" + name)).write_bytes(b"")
    message = refused(root)
    assert message.isascii()


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_image_that_does_not_decode_is_named_with_the_number_of_others(make_images, content: bytes | None) -> None:
    root = make_images([*TWO, *(f"images/dog/{i}.png" for i in range(10, 40))])
    for name in ("images/cat/1.png", "images/dog/11.png", "images/dog/12.png"):
        file = root / name
        file.write_bytes(file.read_bytes()[:-30] if content is None else content)
    message = refused(root)
    assert message.startswith("images/cat/1.png ")
    assert "3 of the 33 images" in message


def test_an_oversized_file_is_refused_unread(make_images) -> None:
    root = make_images(TWO)
    with (root / "images/cat/1.png").open("r+b") as stream:
        stream.truncate(10**12)
    assert "images/cat/1.png is larger than 256 MiB" in refused(root)


def test_pieces_with_other_leading_folders_merge_by_canonical_paths(make_images, tmp_path: Path) -> None:
    first = make_images(["one/images_a/cat/1.png"], tmp_path / "1")
    (first / "one/classes.txt").write_text("cat\ndog\n")
    second = make_images(["two/dog/1.png", "two/cat/2.png"], tmp_path / "2")
    (second / ".DS_Store").write_bytes(b"")
    assert canonical_paths(first, "default") == {
        PurePosixPath("one/images_a/cat/1.png"): PurePosixPath("images/cat/1.png"),
        PurePosixPath("one/classes.txt"): PurePosixPath("classes.txt"),
    }
    assert set(canonical_paths(second, "default").values()) == {
        PurePosixPath("images/dog/1.png"),
        PurePosixPath("images/cat/2.png"),
    }
    raw = make_images(["x/y/1.png"], tmp_path / "3")
    assert canonical_paths(raw, RAW) == {PurePosixPath("x/y/1.png"): PurePosixPath("x/y/1.png")}


def test_a_set_of_1800_images_is_checked_whole(tmp_path: Path) -> None:
    for label in range(10):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for number in range(180):
            Image.new("L", (32, 32), number).save(folder / f"{number}.png")
    assert check_layout(tmp_path, "default", for_training=True).count == 1800
    (tmp_path / "images" / "7" / "93.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"images/7/93\.png"):
        check_layout(tmp_path, "default", for_training=True)
