"""Resolved config: what label config, options and version mean for `/predict`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ram_backend.errors import LabelConfigError, listed
from ram_backend.labelstudio.annotations import normalise_line
from ram_backend.labelstudio.schema import Choice, LabelSchema, TagControl, free_choice
from ram_backend.models.bundle import Bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import PROMISED_FROM, ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.server.model import ModelIdentity
from ram_backend.tagging.tagger import TOKEN_DTYPE

CONFIG_FORMAT = 1
"""Raise it when the same config begins to give other predictions."""

_LISTED = 5


class VersionRef(NamedTuple):
    """Identity of a version such as "v0003"; `learned`: photos learned from."""

    key: ProjectKey
    name: str
    digest: str
    bundle: str | None = None
    learned: int = 0

    def __str__(self) -> str:
        return f"{self.name} of project {self.key}"


@dataclass(frozen=True)
class ControlChoices:
    """The scored choices of one control; dynamic ones are those of one task.

    Attributes:
        columns: per choice the places of its texts in `texts`, which are
            distinct.
        thresholds: per choice what admins set; None: the bundle's own threshold
            holds.
        add_cost: what it costs to add a missing tag, in removed ticks; shifts
            the thresholds of calibrated tags.
    """

    choices: tuple[Choice, ...]
    texts: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    thresholds: tuple[float | None, ...]
    add_cost: float = 1.0


@dataclass(frozen=True)
class ResolvedConfig:
    """Everything that decides what a project's predictions are.

    Attributes:
        options: by control, what its admins settled.
        controls: by name, what is scored of those with fixed choices; those
            with dynamic ones are missing.
        model_version: names the behaviour; made of identities, never of
            computed numbers.
        version: what the project has learned; None: the bundle's base.
        new_tags: texts of fixed choices that the vocabulary doesn't know.
    """

    bundle: Bundle
    schema: LabelSchema
    options: Mapping[str, ProjectOptions]
    controls: Mapping[str, ControlChoices]
    model_version: str
    version: VersionRef | None = None
    new_tags: int = 0

    def dynamic(self, control: TagControl, choices: Sequence[Choice]) -> ControlChoices:
        """What is scored of a dynamic control, given its choices for one task."""
        return _control_choices(control, choices, self.options[control.name], self.version)


def resolve_config(
    model: ModelIdentity, schema: LabelSchema, project: Project, version: VersionRef | None = None
) -> ResolvedConfig:
    """Merges label config, admin's options, bundle and version.

    The label config need not be the stored one, nor the version read yet.

    Raises:
        LabelConfigError: the admin's tags leave no choice of the label config.
    """
    own = {control.name: ProjectOptions(**control.attributes) for control in schema.tag_controls}
    options = {name: project.options(each) for name, each in own.items()}
    controls: dict[str, ControlChoices] = {}
    for control in schema.tag_controls:
        if control.dynamic is None:
            settled = options[control.name]
            choices = _free_choices(model, schema, control, settled) if control.free_text else control.choices
            controls[control.name] = _control_choices(control, choices, settled, version)
    if controls and len(controls) == len(schema.tag_controls) and not any(each.choices for each in controls.values()):
        wanted = listed(next(iter(options.values())).tags or (), _LISTED, repr)
        offered = [choice.value for control in schema.tag_controls for choice in control.choices[:_LISTED]]
        raise LabelConfigError(
            f"None of the tags that an admin asked for ({wanted}) is a choice of the label config (such as"
            f" {', '.join(map(repr, offered))}): add them to the label config, or change the tags in the extra params"
            " or with `ram-backend project set`."
        )
    name = _model_version(model, schema, options, controls, version)
    texts = list({text for control in controls.values() for text in control.texts})
    new = model.bundle.vocabulary.resolve(texts).count(None)
    return ResolvedConfig(model.bundle, schema, options, controls, name, version, new)


def _control_choices(
    control: TagControl, choices: Sequence[Choice], options: ProjectOptions, version: VersionRef | None
) -> ControlChoices:
    """The choices that remain after the admin's tags, their texts and thresholds."""
    wanted = None if options.tags is None else {tag.strip().casefold() for tag in options.tags}
    chosen = list(choices)
    if wanted is not None:
        chosen = [each for each in choices if any(name.casefold() in wanted for name in each.names)]
    texts: dict[str, int] = {}
    columns = [tuple(texts.setdefault(text, len(texts)) for text in choice.texts) for choice in chosen]
    learned = 0 if version is None else version.learned
    thresholds = [options.threshold_of(choice.names, learned) for choice in chosen]
    cost = control.add_cost if options.add_cost is None else options.add_cost
    return ControlChoices(tuple(chosen), tuple(texts), tuple(columns), tuple(thresholds), cost)


def precision_notes(by_control: Mapping[str, ProjectOptions], version: VersionRef | None) -> list[str]:
    """Sentences about an asked precision: what promises it, or why nothing does."""
    learned = 0 if version is None else version.learned
    found: list[str] = []
    for name, options in by_control.items():
        if options.precision is None:
            continue
        if learned < PROMISED_FROM:
            found.append(
                f"{name!r}: that {options.precision:.0%} of the ticks are right can't be promised before a version has"
                f" learned from {PROMISED_FROM} photos (now {learned}): no tag is ticked."
            )
        else:
            found.append(
                f"{name!r} ticks tags where at least {options.precision:.0%} of such ticks are right, by what"
                f" {version} has learned from {learned} photos: on photos like these."
            )
        if own := listed(list(options.per_tag), _LISTED, repr):
            found.append(f"{name!r}: {own} have thresholds of their own, which promise nothing.")
    return found


def _free_choices(
    model: ModelIdentity, schema: LabelSchema, control: TagControl, options: ProjectOptions
) -> tuple[Choice, ...]:
    """The admin's tags, else the vocabulary, less what other controls offer."""
    others = [each for each in schema.tag_controls if each.to_name == control.to_name and not each.free_text]
    taken = {name.casefold() for each in others for choice in each.choices for name in choice.names}
    names = model.bundle.vocabulary.names if options.tags is None else options.tags
    lines = dict.fromkeys(normalise_line(name) for name in names)
    return tuple(free_choice(line) for line in lines if line is not None and line.casefold() not in taken)


def _model_version(
    model: ModelIdentity,
    schema: LabelSchema,
    options: Mapping[str, ProjectOptions],
    controls: Mapping[str, ControlChoices],
    version: VersionRef | None,
) -> str:
    """As `Tagger.model_version`, for a whole label config."""

    def settled(control: TagControl) -> object:
        by_admins, scored = options[control.name], controls.get(control.name)
        cost = control.add_cost if scored is None else scored.add_cost
        costs = [] if cost == 1 else [cost]
        if scored is None:
            return [by_admins.to_json(), *costs]
        thresholds = [None if value is None else f"{value:.6g}" for value in scored.thresholds]
        paths = None if by_admins.tags is None else [choice.path for choice in scored.choices]
        return [paths, thresholds, by_admins.top_k, *costs]

    bundle = model.bundle
    identity: dict[str, object] = {
        "format": CONFIG_FORMAT,
        "bundle": bundle.digest,
        "engine": model.encoder_id,
        "token_dtype": TOKEN_DTYPE,
        "text": [bundle.text_encoder, bundle.manifest.get("text_encoder_id")],
        "plan": schema.digest,
        "settled": [settled(control) for control in schema.tag_controls],
    }
    if version is not None:
        identity["version"] = version.digest
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = bundle.name if version is None else f"{bundle.name}-{version.name}"
    return f"{name}-{digest[:12]}"
