from pathlib import Path

import pytest
from e2e.round_trips import ROUND_TRIPS
from support.commands import run

from ram_backend.errors import InputError
from ram_backend.labelstudio.config_xml import vocabulary_config
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Tag

FOLDER = Path(__file__).resolve().parents[2] / "label_configs"
TAGS = [
    Tag("zebra", category="animal"),
    Tag('10" <pipe> & co'),
    Tag("cat", category="animal"),
    Tag("cat", category="food"),
]


def test_a_taxonomy_goes_from_category_to_tag():
    (taxonomy,) = parse_label_config(vocabulary_config(TAGS)).tag_controls
    paths = [("object", '10" <pipe> & co'), ("animal", "cat"), ("animal", "zebra")]
    assert [choice.path for choice in taxonomy.choices] == paths


def ready(name):
    return (FOLDER / f"{name}.xml").read_text(encoding="utf-8")


READY = sorted(path.stem for path in FOLDER.glob("*.xml"))


@pytest.mark.parametrize("name", READY)
def test_each_ready_config_can_be_served_and_says_when_to_use_it(name):
    text = ready(name)
    schema = parse_label_config(text)
    left_alone = ['model_tags="false"'] if name == "all_options" else []
    assert len(schema.notes) == len(left_alone)
    assert all(why in note for why, note in zip(left_alone, schema.notes, strict=True))
    assert "Use it" in text.split("-->")[0]
    assert "\t" not in text


def test_each_ready_config_has_a_round_trip_in_a_real_label_studio():
    """Whoever adds a file writes down how it is corrected: tests/e2e/test_label_configs.py does it in a browser."""
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.xml" for name in ROUND_TRIPS}


def test_the_taxonomy_has_the_whole_vocabulary_of_today(tmp_path):
    vocabulary = load_label_system()
    text = ready("taxonomy")
    assert text == vocabulary_config(vocabulary), "ram-backend vocabulary label-config --out label_configs/taxonomy.xml"
    assert {each.value for each in parse_label_config(text).tag_controls[0].choices} == set(vocabulary.names)
    assert run("vocabulary", "label-config") == text
    run("vocabulary", "label-config", "--out", tmp_path / "config.xml")
    assert (tmp_path / "config.xml").read_text(encoding="utf-8") == text
    with pytest.raises(InputError, match="can't be written"):
        run("vocabulary", "label-config", "--out", tmp_path / "none" / "config.xml")
