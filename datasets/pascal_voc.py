"""Pascal VOC: an XML file per picture.

[any/folders/]JPEGImages/<name>.jpg       or images/
[any/folders/]Annotations/<name>.xml      or labels/
[any/folders/]classes.txt                 optional: the classes that there are, in the order of their labels

Pascal counts pixels from 1 and its last pixel is inside: the box of a whole picture is 1, 1, width, height.
Many tools count from 0; a set with a 0 in it is read so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from .box_checks import ANY_SIZE, checked_edges, parse_number
from .box_folder import (
    ClassNames,
    ReadOptions,
    Size,
    by_stem,
    class_names,
    common_notes,
    list_label_files,
    list_pictures,
    measure,
    pair_folders,
    place_pairs,
    write_class_list,
)
from .boxes import DONT_CARE_NAME, Box, BoxSet, Picture, to_pixels
from .folder import FolderContent
from .problems import Problems
from .xml_tree import Element, XmlError, parse_xml

IMAGES_FOLDER, ANNOTATIONS_FOLDER = "JPEGImages", "Annotations"
LAYOUT = "Put pictures into `JPEGImages/` and an XML file of the same name per picture into `Annotations/`."

_IMAGES = frozenset({"jpegimages", "images"})
_ANNOTATIONS = frozenset({"annotations", "labels"})
_MAX_BYTES = 16 * 2**20
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_pascal_voc(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return the set; single faults go to `problems`, and what has one is left out.

    Raises:
        DatasetError: the layout is not that of Pascal VOC, so that nothing can be read.
    """
    images, annotations = pair_folders(content, _IMAGES, _ANNOTATIONS, LAYOUT, partial=options.partial)
    files = {} if images is None else list_pictures(content, images)
    stems = by_stem(files)
    xml_files = list_label_files(content, annotations, ".xml")
    roots = {}
    for stem, path in xml_files.items():
        if stem in stems:
            continue
        if not options.partial:
            problems.add("missing picture", str(path), f"there is no picture {images}/{stem}.*", "Send it as well.")
        elif (root := _parse(content, path, problems)) is not None:
            roots[stem] = root
    for stem, name in stems.items():
        if stem not in xml_files:
            if options.partial:
                continue
            what = f"it has no annotation {annotations}/{stem}.xml"
            hint = "An annotation without an object says that nothing is in the picture."
            problems.add("missing labels", str(files[name]), what, hint)
        elif (root := _parse(content, xml_files[stem], problems)) is not None:
            roots[stem] = root
    sizes = measure(content, files.values(), options, problems)
    names = class_names(content, images or annotations, options)
    origin = 0.0 if any(map(_counts_from_zero, roots.values())) else 1.0
    pictures = []
    for stem, root in roots.items():
        file = str(xml_files[stem])
        if (picture := stems.get(stem)) is None:
            boxes = _boxes(root, file, origin, ANY_SIZE, options, names, problems)
            pictures.append(Picture(path=stem, name=stem, width=0, height=0, boxes=boxes))
        elif (size := sizes.get(files[picture])) is not None and _size_fits(root, size, file, problems):
            boxes = _boxes(root, file, origin, size, options, names, problems)
            pictures.append(Picture(path=files[picture], name=picture, width=size[0], height=size[1], boxes=boxes))
    found, classes = names.finish(pictures)
    notes = common_notes(problems, found)
    if origin == 0.0:
        notes.append("Some box begins at pixel 0, so that the pixels of this set are counted from 0, not from 1.")
    return BoxSet(root=content.root, pictures=found, classes=classes, notes=tuple(notes))


def _parse(content: FolderContent, path: PurePosixPath, problems: Problems) -> Element | None:
    with (content.root / path).open("rb") as stream:
        raw = stream.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        problems.add("file too large", str(path), f"it is larger than {_MAX_BYTES // 2**20} MiB")
        return None
    try:
        root = parse_xml(raw)
    except XmlError as error:
        problems.add("bad XML", f"{path}, line {error.line}", error.what)
        return None
    if root.tag != "annotation":
        problems.add("bad XML", f"{path}, line {root.line}", f"it begins with <{root.tag[:40]}>, not <annotation>")
        return None
    return root


def _counts_from_zero(root: Element) -> bool:
    for element in root.all("object"):
        box = element.first("bndbox")
        for tag in ("xmin", "ymin") if box else ():
            edge = box.first(tag) if box else None
            if edge is not None and (value := parse_number(edge.text)) is not None and 0 <= value < 1:
                return True
    return False


def _size_fits(root: Element, size: Size, file: str, problems: Problems) -> bool:
    """Return whether the size in the file, if any, is that of the picture; a problem when not."""
    element = root.first("size")
    if element is None:
        return True
    given = [parse_number(part.text) if (part := element.first(tag)) else None for tag in ("width", "height")]
    # why: some tools write 0 x 0 when they did not open the picture.
    if given == list(size) or not any(given):
        return True
    problems.add(
        "wrong size",
        f"{file}, line {element.line}",
        f"the size is {_text(element, 'width')} x {_text(element, 'height')}, "
        f"but the picture has {size[0]} x {size[1]} pixels",
        "Annotate the picture as it is shown: upright by its EXIF data.",
    )
    return False


def _text(element: Element, tag: str) -> str:
    found = element.first(tag)
    return found.text[:40] if found is not None and found.text else "?"


def _boxes(
    root: Element, file: str, origin: float, size: Size, options: ReadOptions, names: ClassNames, problems: Problems
) -> tuple[Box, ...]:
    found = (_box(element, file, origin, size, options, names, problems) for element in root.all("object"))
    return tuple(box for box in found if box is not None)


def _box(
    element: Element, file: str, origin: float, size: Size, options: ReadOptions, names: ClassNames, problems: Problems
) -> Box | None:
    where = f"{file}, line {element.line}"
    name = element.first("name")
    if name is None:
        problems.add("missing element", where, "the object has no <name>")
        return None
    numbers = _edges(element, where, problems)
    label = names.label(name.text, f"{file}, line {name.line}", problems)
    flags = [_flag(element, tag, file, problems) for tag in ("truncated", "difficult", "occluded")]
    if numbers is None or label is None or None in flags:
        return None
    x1, y1, x2, y2 = numbers
    # why: from 1 with the last pixel inside, the left edge of pixel n is n - 1 and its right edge n.
    edges = checked_edges((x1 - origin, y1 - origin, x2, y2), *size, options.outside, where, problems)
    if edges is None:
        return None
    pose = element.first("pose")
    score = element.first("score")
    return Box(
        x1=edges[0],
        y1=edges[1],
        x2=edges[2],
        y2=edges[3],
        label=label,
        truncated=float(flags[0] or 0),
        difficult=bool(flags[1]),
        occluded=int(flags[2] or 0),
        pose="" if pose is None or pose.text == "Unspecified" else pose.text,
        score=None if score is None else parse_number(score.text),
    )


def _edges(element: Element, where: str, problems: Problems) -> tuple[float, float, float, float] | None:
    box = element.first("bndbox")
    if box is None:
        problems.add("missing element", where, "the object has no <bndbox>")
        return None
    values = []
    for tag in _EDGES:
        edge = box.first(tag)
        value = None if edge is None else parse_number(edge.text)
        if value is None:
            what = f"<bndbox> has no <{tag}>" if edge is None else f"<{tag}> is {edge.text[:40]!a}, which is no number"
            problems.add("not a number" if edge else "missing element", where, what)
            return None
        values.append(value)
    return values[0], values[1], values[2], values[3]


def _flag(element: Element, tag: str, file: str, problems: Problems) -> int | None:
    """Return 0 or 1; 0 when the element is not there, None when it is neither, which becomes a problem."""
    found = element.first(tag)
    if found is None or found.text in {"", "0", "Unspecified"}:
        return 0
    if found.text == "1":
        return 1
    problems.add("out of range", f"{file}, line {found.line}", f"<{tag}> is {found.text[:40]!a}, not 0 or 1")
    return None


def place_pascal_voc(content: FolderContent) -> dict[PurePosixPath, PurePosixPath]:
    """Return where the files of a piece belong in a set without leading folders."""
    images, annotations = pair_folders(content, _IMAGES, _ANNOTATIONS, LAYOUT, partial=True)
    return place_pairs(content, images, annotations, (IMAGES_FOLDER, ANNOTATIONS_FOLDER), ".xml")


def check_pascal_voc(boxes: BoxSet) -> None:
    """Raise `DatasetError` when Pascal VOC cannot hold this set."""
    by_stem({picture.name: picture.path for picture in boxes.pictures})


def write_pascal_voc(boxes: BoxSet, folder: Path) -> None:
    """Write the XML files below `folder`, and `classes.txt`, which keeps the order of the labels."""
    check_pascal_voc(boxes)
    names = [*boxes.class_names, DONT_CARE_NAME]
    for picture in boxes.pictures:
        file = folder / ANNOTATIONS_FOLDER / picture.name.with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(_lines(picture, names)) + "\n", encoding="utf-8")
    write_class_list(boxes, folder)


def _lines(picture: Picture, names: list[str]) -> Iterator[str]:
    yield "<annotation>"
    yield f"  <folder>{IMAGES_FOLDER}</folder>"
    yield f"  <filename>{_text_of(picture.name.name)}</filename>"
    yield f"  <size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth></size>"
    yield "  <segmented>0</segmented>"
    for box in picture.boxes:
        yield "  <object>"
        yield f"    <name>{_text_of(names[box.label])}</name>"
        yield f"    <pose>{_text_of(box.pose) or 'Unspecified'}</pose>"
        yield f"    <truncated>{int(box.truncated > 0)}</truncated>"
        yield f"    <difficult>{int(box.difficult)}</difficult>"
        yield f"    <occluded>{int(box.occluded > 0)}</occluded>"
        edges = (box.x1 + 1, box.y1 + 1, box.x2, box.y2)
        values = "".join(f"<{tag}>{_number(edge)}</{tag}>" for tag, edge in zip(_EDGES, edges, strict=True))
        yield f"    <bndbox>{values}</bndbox>"
        if box.score is not None:
            yield f"    <score>{box.score!r}</score>"
        yield "  </object>"
    yield "</annotation>"


def _text_of(text: str) -> str:
    # why: XML has no way to write most of what does not print; class names have none of it.
    return escape("".join(c if c.isprintable() else "?" for c in text))


def _number(value: float) -> str:
    value = to_pixels(value)
    return str(int(value)) if value.is_integer() else repr(value)
