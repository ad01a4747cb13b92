"""`ram-backend vocabulary`: looking up, and building the label system."""

import json
from pathlib import Path

import pytest
from support.commands import connect, run
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.errors import InputError
from ram_backend.vocabulary.tags import Vocabulary


@pytest.mark.usefixtures("with_starter")
@pytest.mark.parametrize(("text", "status", "shown"), [("dogs", 0, "animal"), ("my product name", 1, "(new: scored")])
def test_find_says_as_what_a_word_is_scored(text: str, status: int, shown: str) -> None:
    assert shown in run("vocabulary", "find", text, status=status)


@pytest.mark.usefixtures("with_starter")
def test_captions_become_tags_and_a_vocabulary(tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    lines = [
        {"file": "a.jpg", "captions": ["A dog on grass.", "A dog without a leash"]},
        {"file": "b.jpg", "caption": "dog"},
    ]
    captions.write_text("\n".join(map(json.dumps, lines)))
    run("vocabulary", "parse", captions, "--min-mentions", 2, "--out", tmp_path / "tags.jsonl")
    found = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert found == [
        {"file": "a.jpg", "tags": ["dog"], "maybe": ["grass"]},
        {"file": "b.jpg", "tags": [], "maybe": ["dog"]},
    ]
    dogs = tmp_path / "vocabulary.json"
    run("vocabulary", "build", "--captions", captions, "--min-count", 3, "--out", dogs)
    assert Vocabulary.load(dogs).names == ("dog",)
    said = run("vocabulary", "parse", captions, "--tags", dogs, "--out", tmp_path / "dogs.jsonl")
    assert "2 tags of 2 images" in said


@pytest.mark.usefixtures("with_starter")
def test_captions_of_a_project_become_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = '<View><Image name="i" value="$photo"/><TextArea name="t" toName="i"/></View>'
    with FakeLabelStudio.with_tasks(0) as studio:
        studio.record["label_config"] = config
        studio.task(1, photo="/data/a.jpg", text="A dog on grass.")
        studio.task(2, photo="/data/b.jpg", text=["No dog.", "A cat"])
        studio.task(3, photo="/data/c.jpg")
        monkeypatch.setenv("RAM_DATABASE_URL", f"sqlite:///{tmp_path / 'ram.db'}")
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        connect(studio.key, config)
        parse = ("vocabulary", "parse", "--project", studio.project, "--out", tmp_path / "tags.jsonl")
        assert "3 tags of 2 images" in run(*parse, "--field", "text")
        with pytest.raises(InputError, match="the first has: photo, text"):
            run(*parse)
        with pytest.raises(InputError, match="or a --project"):
            run(*parse, tmp_path / "captions.jsonl")
    found = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert found == [{"file": "/data/a.jpg", "tags": ["dog", "grass"]}, {"file": "/data/b.jpg", "tags": ["cat"]}]
