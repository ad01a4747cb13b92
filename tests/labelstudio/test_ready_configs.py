from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ram_backend.cli import app
from ram_backend.labelstudio import parse_label_config, vocabulary_config
from ram_backend.vocabulary import Tag, load_label_system

FOLDER = Path(__file__).resolve().parents[2] / "label_configs"
TAGS = [
    Tag("zebra", category="animal"),
    Tag('10" <pipe> & co'),
    Tag("cat", category="animal"),
    Tag("cat", category="food"),
]


def test_a_taxonomy_goes_from_category_to_tag():
    (control,) = parse_label_config(vocabulary_config(TAGS)).tag_controls
    assert [choice.path for choice in control.choices] == [
        ("object", '10" <pipe> & co'),
        ("animal", "cat"),
        ("animal", "zebra"),
    ]


def test_choices_are_one_list():
    (control,) = parse_label_config(vocabulary_config(TAGS, "choices")).tag_controls
    assert [choice.value for choice in control.choices] == ['10" <pipe> & co', "cat", "zebra"]
    assert not control.single


@pytest.mark.parametrize("name", ["choices.xml", "choices_with_confidence.xml", "taxonomy.xml"])
def test_each_ready_config_can_be_served_and_says_when_to_use_it(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    plan = parse_label_config(text)
    (control,) = plan.tag_controls
    assert plan.notes == ()
    assert plan.images == {"image": "image"}
    assert not control.single
    assert (name == "choices.xml") == (plan.confidence_controls == {})
    assert "Use it" in text.split("-->")[0]


def test_there_is_no_further_ready_config():
    assert {path.name for path in FOLDER.iterdir()} == {"choices.xml", "choices_with_confidence.xml", "taxonomy.xml"}


def test_the_taxonomy_has_the_whole_vocabulary_of_today():
    vocabulary = load_label_system()
    text = (FOLDER / "taxonomy.xml").read_text(encoding="utf-8")
    assert text == vocabulary_config(vocabulary), (
        "run: ram-backend vocabulary label-config --out label_configs/taxonomy.xml"
    )
    assert {each.value for each in parse_label_config(text).tag_controls[0].choices} == set(vocabulary.names)


def test_the_command_prints_or_writes(tmp_path):
    printed = CliRunner().invoke(app, ["vocabulary", "label-config", "--control", "choices"])
    assert printed.exit_code == 0
    assert printed.stdout == vocabulary_config(load_label_system(), "choices")
    target = tmp_path / "config.xml"
    written = CliRunner().invoke(app, ["vocabulary", "label-config", "--out", str(target)])
    assert written.exit_code == 0
    assert target.read_text(encoding="utf-8") == vocabulary_config(load_label_system())


def test_the_command_names_a_file_that_cannot_be_written(tmp_path):
    result = CliRunner().invoke(app, ["vocabulary", "label-config", "--out", str(tmp_path / "none" / "config.xml")])
    assert result.exit_code == 1
    assert "--out" in str(result.exception)
