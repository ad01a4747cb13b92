"""The choices of a tag control: from the label config, and dynamic ones from a task's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from ram_backend.labelstudio.markup import Node

Nesting = Literal["flat", "nodes", "leaves"]
"""What can be ticked: `flat` the top level (`Choices`), `nodes` all (`Taxonomy`), `leaves` what has nothing below."""

MAX_OPTION_DEPTH = 100
MAX_OPTIONS = 50_000
MAX_TEXTS = 1000
"""Of a choice's `predicted_values` the first so many are read."""


@dataclass(frozen=True)
class Choice:
    """One entry that can be ticked.

    Attributes:
        value: what a result says: the alias if there is one, else the value; the last step of `path`.
        text: what is scored: the first of `texts`.
        path: what a result of a nested control says: from the topmost entry down to this one.
        texts: what is scored, one or more; the score of the choice is the highest of theirs.
        label: what the annotator reads.
    """

    value: str
    text: str
    path: tuple[str, ...]
    texts: tuple[str, ...]
    label: str


def static_choices(control: Node, nesting: Nesting, entry: str = "choice") -> tuple[Choice, ...]:
    """The choices that stand in the label config, in order, each once.

    Args:
        control: the element that they are in.
        nesting: which of them can be ticked.
        entry: name of their elements, in lower case.
    """
    return _unique(_from_nodes(_choice_nodes(control, entry), (), nesting), nesting)


def dynamic_choices(options: object, nesting: Nesting) -> tuple[Choice, ...]:
    """The choices of a task: a list of texts, or of objects with `value` and perhaps `alias` and `children`.

    `html`, `hint` and the like are only for the page. Entries that are neither are left out, and those after the first
    `MAX_OPTIONS`.
    """
    return _unique(islice(_from_options(options, (), nesting), MAX_OPTIONS), nesting)


def joined(first: tuple[Choice, ...], then: tuple[Choice, ...], nesting: Nesting) -> tuple[Choice, ...]:
    """Both, each once."""
    return _unique([*first, *then], nesting)


def free_choice(text: str) -> Choice:
    """A tag that no label config lists."""
    return Choice(value=text, text=text, path=(text,), texts=(text,), label=text)


def _choice_nodes(parent: Node, entry: str = "choice") -> Iterable[Node]:
    """`Choice` (or `Label`) elements below, through layout elements such as `View`, but not through another one."""
    for child in parent.children:
        if child.name == entry:
            yield child
        else:
            yield from _choice_nodes(child, entry)


def _from_nodes(nodes: Iterable[Node], above: tuple[str, ...], nesting: Nesting) -> Iterable[Choice]:
    for node in nodes:
        value, alias = node.attributes.get("value", ""), node.attributes.get("alias", "")
        if not (value.strip() or alias.strip()) or value.startswith("$"):
            continue
        choice = _choice(value, alias, node.get("predicted_values"), above)
        below = list(_choice_nodes(node))
        if nesting != "leaves" or not below:
            yield choice
        if nesting != "flat":
            yield from _from_nodes(below, choice.path, nesting)


def _from_options(options: object, above: tuple[str, ...], nesting: Nesting) -> Iterable[Choice]:
    if not isinstance(options, list) or len(above) >= MAX_OPTION_DEPTH:
        return
    for option in options:
        entry: Mapping[object, object] = option if isinstance(option, Mapping) else {"value": option}
        value, alias = _text(entry.get("value")), _text(entry.get("alias"))
        if not (value.strip() or alias.strip()):
            continue
        choice = _choice(value, alias, _text(entry.get("predicted_values")), above)
        below = entry.get("children")
        if nesting != "leaves" or not below:
            yield choice
        if nesting != "flat":
            yield from _from_options(below, choice.path, nesting)


def _choice(value: str, alias: str, predicted_values: str, above: tuple[str, ...]) -> Choice:
    said = alias if alias.strip() else value
    shown = value if value.strip() else alias
    named = predicted_values.split(",", MAX_TEXTS)[:MAX_TEXTS]
    texts = tuple(dict.fromkeys(text.strip() for text in named if text.strip()))
    texts = texts or (shown.strip(),)
    return Choice(value=said, text=texts[0], path=(*above, said), texts=texts, label=shown.strip())


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _unique(choices: Iterable[Choice], nesting: Nesting) -> tuple[Choice, ...]:
    """What a result can't tell apart is one choice: the first."""
    found: dict[object, Choice] = {}
    for choice in choices:
        found.setdefault(choice.value if nesting == "flat" else choice.path, choice)
    return tuple(found.values())
