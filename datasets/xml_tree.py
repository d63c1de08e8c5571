"""XML from strangers as a small tree whose elements know their line. No DTD, so no entities and no bombs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

_MAX_DEPTH = 64


class XmlError(Exception):
    """What is wrong, and in which line."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


@dataclass(slots=True)
class Element:
    """One element: its own text without blanks around it, and its elements."""

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        return (child for child in self.children if child.tag == tag)

    def first(self, tag: str) -> Element | None:
        return next(self.all(tag), None)


def parse_xml(content: bytes) -> Element:
    """Return the root element.

    Raises:
        XmlError: the text is not well-formed, has a document type, or is nested too deeply.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    document = Element("", 0)
    path = [document]

    def refuse_doctype(*_: Any) -> None:
        raise XmlError("it has a document type (<!DOCTYPE ...>), which is not read here", parser.CurrentLineNumber)

    def start(tag: str, _: dict[str, str]) -> None:
        if len(path) > _MAX_DEPTH:
            raise XmlError(f"its elements are nested deeper than {_MAX_DEPTH}", parser.CurrentLineNumber)
        element = Element(tag, parser.CurrentLineNumber)
        path[-1].children.append(element)
        path.append(element)

    def end(_: str) -> None:
        element = path.pop()
        element.text = element.text.strip()

    def text(characters: str) -> None:
        path[-1].text += characters

    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise XmlError(f"it is not XML: {expat.ErrorString(error.code)}", error.lineno) from error
    except (LookupError, ValueError) as error:  # an encoding that Python does not know
        raise XmlError(f"it cannot be decoded: {error}", 1) from error
    return document.children[0]
