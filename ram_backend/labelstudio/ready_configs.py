"""Label configs made from a whole vocabulary, ready to paste into Label Studio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal
from xml.sax.saxutils import quoteattr

from ram_backend.vocabulary.tags import CATEGORIES, Tag

Control = Literal["taxonomy", "choices"]

_WHEN = {
    "taxonomy": (
        "Whole vocabulary ({count} tags), grouped by category, with a search box and a confidence per tag.\n"
        "     Use it beyond a hundred tags or so, or while you find out which tags your photos need.\n"
        "     Made by: ram-backend vocabulary label-config"
    ),
    "choices": (
        "Whole vocabulary ({count} tags) as check boxes, with a confidence per tag.\n"
        "     Use it for vocabularies of at most a hundred tags or so; a Taxonomy opens faster and can be searched.\n"
        "     Made by: ram-backend vocabulary label-config (with its option for choices)"
    ),
}
_OPEN = {
    "taxonomy": '<Taxonomy name="tags" toName="image" leafsOnly="true" minWidth="400px" placeholder="Search tags">',
    "choices": '<Choices name="tags" toName="image" choice="multiple" showInline="true">',
}


def vocabulary_config(tags: Iterable[Tag], control: Control = "taxonomy") -> str:
    """A label config with all `tags`, each name once, in alphabetical order (within its category for a taxonomy).

    Args:
        tags: at least one.
        control: `taxonomy`: category -> tag, only tags can be ticked; `choices`: one flat list.

    Returns:
        XML, one tag a line, with a comment that says when to use it; ends with a newline.
    """
    first: dict[str, Tag] = {}
    for tag in tags:
        first.setdefault(tag.name, tag)
    ordered = sorted(first.values(), key=lambda tag: (tag.name.casefold(), tag.name))
    lines = [_choice(tag.name, 6) for tag in ordered] if control == "choices" else list(_grouped(ordered))
    when = _WHEN[control].format(count=len(ordered))
    closing = "</Taxonomy>" if control == "taxonomy" else "</Choices>"
    head = [
        '<View style="display:flex; gap:16px">',
        f"  <!-- {when} -->",
        '  <View style="flex:60%"><Image name="image" value="$image" zoom="true"/></View>',
        '  <View style="flex:40%">',
        f"    {_OPEN[control]}",
    ]
    tail = [
        f"    {closing}",
        '    <Header value="Model confidence" size="5"/>',
        '    <TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>',
        "  </View>",
        "</View>",
    ]
    return "\n".join([*head, *lines, *tail]) + "\n"


def _grouped(tags: list[Tag]) -> Iterable[str]:
    for category in CATEGORIES:
        inside = [tag for tag in tags if tag.category == category]
        if inside:
            yield f"      <Choice value={quoteattr(category)}>"
            yield from (_choice(tag.name, 8) for tag in inside)
            yield "      </Choice>"


def _choice(name: str, indent: int) -> str:
    return f"{' ' * indent}<Choice value={quoteattr(name)}/>"
