"""The tags that a label config offers: who could not tick a tag has said nothing about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.annotations import canonical_json
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import LabelPlan
from ram_backend.labelstudio.stated_items import ChoiceId


@dataclass(frozen=True)
class Offered:
    """What there was to choose from when something was stated.

    Attributes:
        digest: of all of it.
        choices: control name -> paths of its fixed choices. Dynamic ones come with each task, and are not here.
    """

    digest: str
    choices: dict[str, frozenset[ChoiceId]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, plan: LabelPlan) -> Offered:
        """What a plan offers."""
        choices = {control.name: frozenset(choice.path for choice in control.choices) for control in plan.tag_controls}
        return cls(hashlib.sha256(_text(choices).encode()).hexdigest(), choices)

    def to_json(self) -> str:
        """Canonical JSON, without the digest."""
        return _text(self.choices)

    @classmethod
    def from_json(cls, text: str, digest: str) -> Offered:
        """What `to_json` wrote."""
        said = json.loads(text)
        return cls(digest, {name: frozenset(tuple(path) for path in paths) for name, paths in said.items()})

    def has(self, control: str, choice: ChoiceId) -> bool:
        """Whether a fixed choice could be ticked."""
        return choice in self.choices.get(control, frozenset())


def offered_by(label_config: object) -> Offered | None:
    """What a label config offers; None where it is none that can be read. Remembers the latest ones."""
    if not isinstance(label_config, str) or not label_config.strip():
        return None
    try:
        plan = parse_label_config(label_config)
    except LabelConfigError:
        return None
    found = _known.get(plan.digest)
    if found is None:
        found = Offered.of(plan)
        if len(_known) >= _KEPT:
            _known.clear()
        _known[plan.digest] = found
    return found


_KEPT = 64
_known: dict[str, Offered] = {}


def _text(choices: dict[str, frozenset[ChoiceId]]) -> str:
    return canonical_json({name: sorted(paths) for name, paths in choices.items()})
