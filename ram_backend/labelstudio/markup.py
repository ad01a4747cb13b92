"""Reads a label config's XML into plain nodes: no entities, no document type, bounded depth and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ram_backend.errors import LabelConfigError

MAX_CHARACTERS = 5_000_000
MAX_DEPTH = 100
MAX_ELEMENTS = 100_000

_WHOLE = "Paste a complete config from Settings > Labeling Interface > Code"


@dataclass
class Node:
    """One element; names of elements and attributes in lower case, as Label Studio's page reads them.

    Attributes:
        name: such as "choices".
        attributes: such as {"toname": "image"}.
        children: elements directly inside, in order.
        conditional: it, or something around it, is shown only under a condition (`visibleWhen`).
    """

    name: str
    attributes: dict[str, str]
    conditional: bool = False
    children: list[Node] = field(default_factory=list)

    def get(self, name: str) -> str:
        """An attribute without blanks around it; "" where there is none."""
        return self.attributes.get(name, "").strip()

    def is_true(self, name: str) -> bool:
        """Whether an attribute says yes."""
        return self.get(name).lower() in {"true", "1", "yes"}

    def walk(self) -> Iterator[Node]:
        """This node and all inside, in the order of the text."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def read_markup(text: str) -> Node:
    """The root element of a label config.

    Raises:
        LabelConfigError: no XML, beyond `MAX_CHARACTERS`, `MAX_DEPTH` or `MAX_ELEMENTS`, or a document type (entities).
    """
    if len(text) > MAX_CHARACTERS:
        raise LabelConfigError(f"The label config has {len(text)} characters; at most {MAX_CHARACTERS} can be read.")
    if not text.strip():
        raise LabelConfigError(f"The label config is empty. {_WHOLE}.")
    builder = _Builder()
    parser = ElementTree.XMLParser(target=builder)
    try:
        parser.feed(text.strip())
        parser.close()
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"The label config is no well-formed XML: {error}. {_WHOLE}.") from None
    except (ValueError, LookupError):
        raise LabelConfigError(f"The label config holds characters that XML does not allow. {_WHOLE}.") from None
    if builder.root is None:
        raise LabelConfigError(f"The label config has no element. {_WHOLE}.")
    return builder.root


class _Builder:
    """Takes the parser's events."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise LabelConfigError(f"The label config nests deeper than {MAX_DEPTH} elements. Make it flatter.")
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise LabelConfigError(f"The label config has more than {MAX_ELEMENTS:,} elements. Offer fewer choices.")
        node = Node(name.lower(), {key.lower(): value for key, value in attributes.items()})
        node.conditional = node.get("visiblewhen").lower() not in {"", "no-region-selected"}
        if self._open:
            parent = self._open[-1]
            node.conditional = node.conditional or parent.conditional
            parent.children.append(node)
        elif self.root is None:
            self.root = node
        self._open.append(node)

    def end(self, name: str) -> None:
        self._open.pop()

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise LabelConfigError("The label config has a document type (<!DOCTYPE ...>), which is not read. Remove it.")

    def close(self) -> None:
        return None
