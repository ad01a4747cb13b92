"""What a label config and its options mean, and the name of it: pure."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.server import CONFIG, choices_config
from support.tiny_model import identity, tiny_bundle

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import ScoredChoice, prediction
from ram_backend.labelstudio.schema import choices_for
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import PROMISED_FROM, parse_options
from ram_backend.projects.project import Project
from ram_backend.server.predict import scored_choices
from ram_backend.server.resolved_config import ResolvedConfig, VersionRef, precision_notes, resolve_config


def recipe(config: str = CONFIG, extra: object = None, own: object = None, **parts: Any) -> ResolvedConfig:
    """Of the tiny model and its base, or of another `model` and `version`."""
    project = Project(ProjectKey("", 1, 2), extra_params=parse_options(extra), admin_options=parse_options(own))
    model, version = parts.get("model", identity()), parts.get("version")
    return resolve_config(model, parse_label_config(config), project, version)


def test_the_version_names_the_behaviour() -> None:
    other = tiny_bundle()
    other.digest = "e" * 64  # type: ignore[misc]
    assert recipe().model_version == recipe(CONFIG.replace("><", "> <")).model_version
    assert recipe(extra={"threshold": 0.5}).model_version == recipe(own={"threshold": 0.5}).model_version
    assert recipe(extra={"per_tag": {"rose": 0.5}}).model_version == recipe().model_version, "there is no such tag"
    others = [
        recipe(choices_config("red", "green")),
        recipe(choices_config("red", "blue", "green")),
        recipe(extra={"threshold": 0.5}),
        recipe(extra={"threshold": 0.5001}),
        recipe(extra={"per_tag": {"red": 0.5}}),
        recipe(extra={"top_k": 1}),
        recipe(extra={"add_cost": 2.0}),
        recipe(extra={"tags": ["red", "green"]}),
        recipe(CONFIG.replace('name="tags"', 'name="other"')),
        recipe(CONFIG.replace("$image", "$photo")),
        recipe(model=replace(identity(), encoder_id="mean-colour-bf16")),
        recipe(model=identity(other)),
        *(recipe(version=VersionRef(ProjectKey("", 1, 2), "v0001", digest * 64)) for digest in "12"),
    ]
    assert len({recipe().model_version, *(each.model_version for each in others)}) == len(others) + 1


def test_the_base_keeps_the_name_that_it_has_always_had() -> None:
    """Label Studio asks anew for every task where the string changes: raise `CONFIG_FORMAT` on purpose only."""
    assert recipe().model_version == "colours-97e7c33f5c9b"
    assert recipe(choices_config("red", "green"), extra={"threshold": 0.3}).model_version == "colours-afb147322c18"


def test_force() -> None:
    config = choices_config("red", "green", "blue", attributes='model_score_threshold="0.3"')
    found = recipe(config, extra={"per_tag": {"blue": 0.9}}, own={"threshold": 0.7, "per_tag": {"green": 0.8}})
    assert found.controls["tags"].thresholds == (0.3, 0.8, 0.9)
    assert recipe(config, extra={"threshold": 0.1}).controls["tags"].thresholds == (0.1, 0.1, 0.1)
    assert recipe(own={"threshold": 0.7}).controls["tags"].thresholds == (0.7, 0.7, 0.7)
    assert recipe().controls["tags"].thresholds == (None, None, None)


def test_admins_may_call_a_choice_by_its_alias_its_text_or_its_path() -> None:
    config = (
        '<View><Image name="image" value="$image"/><Taxonomy name="tags" toName="image">'
        '<Choice value="animal"><Choice value="cat" alias="c1"/><Choice value="dog"/></Choice></Taxonomy></View>'
    )
    for name in ("c1", "CAT", "animal / c1"):
        kept = recipe(config, extra={"tags": [name]}).controls["tags"].choices
        assert [choice.path[-1] for choice in kept] == ["c1"], name


def test_the_score_of_a_choice_is_that_of_its_best_text() -> None:
    config = choices_config("warm", "blue").replace('value="warm"', 'value="warm" predicted_values="red,pink"')
    control = recipe(config).controls["tags"]
    assert control.texts == ("red", "pink", "blue")
    scores = np.array([[0.2, 0.7, 0.9], [0.65, 0.1, 0.1]], dtype=np.float32)
    found = scored_choices(control, scores, np.array([0.6, 0.5, 0.7], dtype=np.float32))
    by_name = [{one.choice.value: (round(one.score, 3), round(one.threshold, 3)) for one in row} for row in found]
    assert by_name == [{"warm": (0.7, 0.5), "blue": (0.9, 0.7)}, {"warm": (0.65, 0.6), "blue": (0.1, 0.7)}]


def test_calibrated_tags_are_ticked_earlier_where_adding_one_costs_more() -> None:
    scores, thresholds = np.full((1, 3), 0.3, dtype=np.float32), np.array([0.6, 0.5, 0.7], dtype=np.float32)
    taxonomy = CONFIG.replace("<Choices", "<Taxonomy").replace("</Choices>", "</Taxonomy>")
    found = {}
    for name, config, extra in (("list", CONFIG, None), ("search", taxonomy, None), ("set", CONFIG, {"add_cost": 3.0})):
        control = recipe(config, extra=extra).controls["tags"]
        row = scored_choices(control, scores, thresholds)[0]
        found[name] = {one.choice.value: round(one.threshold, 3) for one in row}["green"]
    assert found == {"list": 0.5, "search": 0.2, "set": 0.25}
    assert {one.threshold for one in row} >= {np.float32(0.6)}, "thresholds that are not about costs stay"


@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12),
    thresholds=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=12, max_size=12),
    single=st.booleans(),
    required=st.booleans(),
    top_k=st.sampled_from([None, 1, 3]),
)
def test_what_is_left_out_changes_no_prediction(
    scores: list[float], thresholds: list[float], single: bool, required: bool, top_k: int | None
) -> None:
    names = [f"tag {number}" for number in range(12)]
    config = choices_config(*names, attributes='required="true"' if required else "")
    if single:
        config = config.replace('choice="multiple"', 'choice="single"')
    made = recipe(config, extra={"top_k": top_k} if top_k else None)
    control = made.controls["tags"]
    few = scored_choices(control, np.array([scores], dtype=np.float32), np.array(thresholds, dtype=np.float32))[0]
    every = [
        ScoredChoice(choice, score, threshold)
        for choice, score, threshold in zip(control.choices, scores, thresholds, strict=True)
    ]
    results = [
        prediction(made.schema, {"tags": choices}, model_version="v", top_k={"tags": made.options["tags"].top_k})
        for choices in (few, every)
    ]
    assert results[0] == results[1]


FREE = '<View><Image name="image" value="$image"/>{}<TextArea name="words" toName="image" model_tags="true"/></View>'


def test_free_tags_are_those_of_the_vocabulary_or_the_admins_that_no_other_control_offers() -> None:
    assert recipe(FREE.format("")).controls["words"].texts == ("red", "green", "blue")
    assert recipe(FREE.format(""), extra={"tags": ["pink", "red"]}).controls["words"].texts == ("pink", "red")
    names = {recipe(FREE.format(""), extra=extra).model_version for extra in (None, {"tags": ["pink"]}, {"top_k": 3})}
    assert len(names) == 3
    other = '<Choices name="tags" toName="image"><Choice value="Warm" predicted_values="RED,pink"/></Choices>'
    assert recipe(FREE.format(other)).controls["words"].texts == ("green", "blue")
    found = recipe(FREE.format(other), extra={"tags": ["pink", "turquoise"]}).controls
    assert (found["tags"].texts, found["words"].texts) == (("RED", "pink"), ("turquoise",))


def precise(precision: float, learned: int | None, config: str = "", **more: object) -> ResolvedConfig:
    version = None if learned is None else VersionRef(ProjectKey("", 1, 2), "v0001", "a" * 64, learned=learned)
    return recipe(config or choices_config("red", "green"), {"precision": precision, **more}, version=version)


@pytest.mark.parametrize("learned", [None, PROMISED_FROM - 1])
def test_a_precision_is_not_promised_before_it_is_learned(learned: int | None) -> None:
    found = precise(0.9, learned, per_tag={"green": 0.2})
    assert found.controls["tags"].thresholds == (1.0, 0.2)
    first, other = precision_notes(found.options, found.version)
    assert "90% of the ticks are right can't be promised before a version has learned from 300 photos" in first
    assert "'green' have thresholds of their own" in other
    assert precision_notes(recipe().options, None) == []


def test_a_precision_is_a_threshold_above_it() -> None:
    found = precise(0.9, PROMISED_FROM)
    assert found.controls["tags"].thresholds == pytest.approx((0.971, 0.971), abs=0.001)
    (said,) = precision_notes(found.options, found.version)
    assert "at least 90% of such ticks are right, by what v0001 of project 1.2 has learned from 300 photos" in said
    dynamic = precise(0.9, PROMISED_FROM, choices_config(attributes='value="$options"'))
    offered = choices_for(dynamic.schema.tag_controls[0], {"options": ["red", "pink"]})
    assert dynamic.dynamic(dynamic.schema.tag_controls[0], offered).thresholds == pytest.approx((0.971,) * 2, abs=0.001)


def test_what_lies_above_is_right_so_often_whatever_the_scores_are() -> None:
    """With scores that are calibrated, for spreads of any kind."""
    random = np.random.default_rng(0)
    for a, b in ((0.5, 1.0), (1.0, 1.0), (5.0, 2.0)):
        scores = random.beta(a, b, 200_000)
        right = random.random(len(scores)) < scores
        (threshold,) = precise(0.8, PROMISED_FROM, choices_config("red")).controls["tags"].thresholds
        assert right[scores > float(threshold or 0)].mean() >= 0.8
