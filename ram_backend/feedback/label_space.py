"""Label space of an annotation: a tag that could not be ticked then is unknown, not off."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.annotations import ChoiceId, canonical_json
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import LabelPlan


@dataclass(frozen=True)
class LabelSpace:
    """The fixed choices of a label config at the time of a statement.

    Attributes:
        digest: sha256 of `to_json`.
        choices: control name -> paths of its fixed choices. Dynamic choices come with each task and are not included.
    """

    digest: str
    choices: dict[str, frozenset[ChoiceId]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, plan: LabelPlan) -> LabelSpace:
        """The label space of a plan."""
        choices = {control.name: frozenset(choice.path for choice in control.choices) for control in plan.tag_controls}
        return cls(hashlib.sha256(_text(choices).encode()).hexdigest(), choices)

    def to_json(self) -> str:
        """Canonical JSON, without the digest."""
        return _text(self.choices)

    @classmethod
    def from_json(cls, text: str, digest: str) -> LabelSpace:
        """Reads what `to_json` wrote."""
        choices = json.loads(text)
        return cls(digest, {name: frozenset(tuple(path) for path in paths) for name, paths in choices.items()})

    def has(self, control: str, choice: ChoiceId) -> bool:
        """Whether a fixed choice could be ticked."""
        return choice in self.choices.get(control, frozenset())


def label_space_of(label_config: object) -> LabelSpace | None:
    """The label space of a label config; None if it can't be parsed. The latest ones are cached."""
    if not isinstance(label_config, str) or not label_config.strip():
        return None
    return _space_of(label_config)


@lru_cache(maxsize=64)
def _space_of(label_config: str) -> LabelSpace | None:
    try:
        return LabelSpace.of(parse_label_config(label_config))
    except LabelConfigError:
        return None


def _text(choices: dict[str, frozenset[ChoiceId]]) -> str:
    return canonical_json({name: sorted(paths) for name, paths in choices.items()})
