"""How much each kind of statement is believed."""

from __future__ import annotations

from dataclasses import dataclass

from ram_backend.labelstudio.plan import TagControl
from ram_backend.settings import Settings


@dataclass(frozen=True)
class Weights:
    """Weights in [0, 1]; 1: a person said so, 0: nobody said anything.

    Attributes:
        confirmed: of a tag that was shown as on and was left on.
        added: of a tag that a person ticked.
        removed: of a tag that was shown as on and that a person unticked.
        untouched_listed: of a tag that stayed off in a list of `Choices` or labels that was on screen as a whole: who
            looked at the photo most likely saw it.
        untouched_hidden: of a tag that stayed off in a longer list, in a `Taxonomy`, which is closed until somebody
            opens it, or in a `TextArea`, which lists none: most of its tags nobody thought of.
        listed_tags: lists of at most so many choices or labels count as on screen.
    """

    confirmed: float = 1.0
    added: float = 1.0
    removed: float = 1.0
    untouched_listed: float = 0.5
    untouched_hidden: float = 0.05
    listed_tags: int = 200

    @classmethod
    def of(cls, settings: Settings) -> Weights:
        """As the settings RAM_UNTOUCHED_WEIGHT, RAM_UNTOUCHED_HIDDEN_WEIGHT and RAM_LISTED_TAGS say."""
        return cls(
            untouched_listed=settings.untouched_weight,
            untouched_hidden=settings.untouched_hidden_weight,
            listed_tags=settings.listed_tags,
        )

    def untouched(self, control: TagControl, choices: int) -> float:
        """Of a tag that stayed off in a control with so many choices."""
        listed = (control.kind == "choices" or control.regions) and choices <= self.listed_tags
        return self.untouched_listed if listed else self.untouched_hidden
