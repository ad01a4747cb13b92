"""XML of label configs: a bounded parser without entities, a writer of vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from ram_backend.errors import LabelConfigError
from ram_backend.vocabulary.tags import CATEGORIES, Tag

MAX_CHARACTERS = 5_000_000
MAX_DEPTH = 100
MAX_ELEMENTS = 100_000

_PASTE = "Paste a complete config from Settings > Labeling Interface > Code"

_TEMPLATE = """\
<View style="display:flex; gap:16px">
  <!-- Whole vocabulary ({count} tags), grouped by category, with a search box and a confidence per tag.
     Use it beyond a hundred tags or so, or while you find out which tags your photos need.
     Made by: ram-backend vocabulary label-config -->
  <View style="flex:60%"><Image name="image" value="$image" zoom="true"/></View>
  <View style="flex:40%">
    <Taxonomy name="tags" toName="image" leafsOnly="true" minWidth="400px" placeholder="Search tags">
{choices}
    </Taxonomy>
    <Header value="Model confidence" size="5"/>
    <TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>
  </View>
</View>
"""


class Node(ElementTree.Element):
    """One element; names of elements and attributes are in lower case.

    `conditional`: it or an ancestor is shown only under a condition
    (`visibleWhen`).
    """

    conditional = False

    def get(self, name: str) -> str:  # type: ignore[override]
        """An attribute without whitespace around it; "" if there is none."""
        return self.attrib.get(name, "").strip()

    def is_true(self, name: str) -> bool:
        """Whether an attribute is set to true."""
        return self.get(name).lower() in {"true", "1", "yes"}


def read_markup(text: str) -> list[Node]:
    """The elements of a label config, in the order of the text.

    Raises:
        LabelConfigError: no XML, beyond `MAX_CHARACTERS`, `MAX_DEPTH` or
            `MAX_ELEMENTS`, or a document type (entities).
    """
    if len(text) > MAX_CHARACTERS:
        raise LabelConfigError(f"The label config has {len(text)} characters; at most {MAX_CHARACTERS} can be read.")
    if not text.strip():
        raise LabelConfigError(f"The label config is empty. {_PASTE}.")
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(text.strip())
        return cast("list[Node]", list(parser.close().iter()))
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"The label config is not well-formed XML: {error}. {_PASTE}.") from None
    except (ValueError, LookupError):
        raise LabelConfigError(f"The label config holds characters that XML does not allow. {_PASTE}.") from None


class _Builder(ElementTree.TreeBuilder):
    """Takes the parser's events."""

    def __init__(self) -> None:
        super().__init__(element_factory=Node)
        self._open: list[Node] = []
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> Node:
        if len(self._open) >= MAX_DEPTH:
            raise LabelConfigError(f"The label config nests deeper than {MAX_DEPTH} elements. Make it flatter.")
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise LabelConfigError(f"The label config has more than {MAX_ELEMENTS:,} elements. Offer fewer choices.")
        node = cast(Node, super().start(name.lower(), {key.lower(): value for key, value in attributes.items()}))
        hidden = node.get("visiblewhen").lower() not in {"", "no-region-selected"}
        node.conditional = hidden or any(each.conditional for each in self._open[-1:])
        self._open.append(node)
        return node

    def end(self, name: str) -> Node:
        self._open.pop()
        return cast(Node, super().end(name.lower()))

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise LabelConfigError("The label config has a document type (<!DOCTYPE ...>), which is not read. Remove it.")


def vocabulary_config(tags: Iterable[Tag]) -> str:
    """A `Taxonomy` (XML, one tag a line) of `tags` by category and alphabet."""
    first: dict[str, Tag] = {}
    for tag in tags:
        first.setdefault(tag.name, tag)
    ordered = sorted(first.values(), key=lambda tag: (tag.name.casefold(), tag.name))
    return _TEMPLATE.format(count=len(ordered), choices="\n".join(_grouped(ordered)))


def _grouped(tags: list[Tag]) -> Iterator[str]:
    for category in CATEGORIES:
        inside = [tag for tag in tags if tag.category == category]
        if inside:
            yield f"      <Choice value={quoteattr(category)}>"
            yield from (f"        <Choice value={quoteattr(tag.name)}/>" for tag in inside)
            yield "      </Choice>"
