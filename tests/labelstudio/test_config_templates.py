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


def test_each_ready_config_is_filled_and_has_a_round_trip_in_a_real_label_studio():
    """Whoever adds a file writes down how it is corrected: tests/e2e/test_label_configs.py does it in a browser."""
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.xml" for name in ROUND_TRIPS}
    assert [name for name in ROUND_TRIPS if parse_label_config(ready(name)).notes] == ["all_options"]


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
