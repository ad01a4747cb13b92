"""`ram-backend tag --caption`: captions of a small Tag2Text, and the starter's template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import tiny
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths
from ram_backend.models.importing import import_checkpoint
from ram_backend.settings import load_settings


def lines(*arguments: object) -> list[dict]:
    result = CliRunner().invoke(app, ["tag", *map(str, arguments), "--json"], catch_exceptions=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_image_has_a_caption_of_the_model(tmp_path: Path) -> None:
    file, tags = tiny.write(tmp_path, "tag2text", tiny.captioning_state("tag2text"))
    import_checkpoint(file, tags, name="small", bundles_dir=load_settings().bundles_dir, **tiny.options("tag2text"))
    photos = photo_paths()[:3]
    asked = ["--bundle", "small", "--device", "cpu", "--caption", "--max-length", 15]
    found = lines(*photos, *asked)
    assert [each["caption_source"] for each in found] == ["model"] * 3
    assert all(each["caption"] for each in found)
    assert [lines(photo, *asked)[0]["caption"] for photo in photos] == [each["caption"] for each in found]
    longer = lines(photos[0], *asked[:-1], 40, "--beams", 1)[0]["caption"]
    assert len(longer.split()) > len(found[0]["caption"].split())
    assert "caption" not in lines(photos[0], *asked[:4])[0]


@pytest.mark.usefixtures("with_starter")
def test_the_starter_s_template_is_named_one() -> None:
    result = CliRunner().invoke(app, ["tag", str(photo_paths()[0]), "--caption", "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["caption_source"] == "template"
    assert set(found["caption"].split(", ")) == {each["tag"] for each in found["tags"]}
    assert "starter has no captioner" in result.stderr
    (given,) = lines(photo_paths()[0], "--caption", "--tags", "zebra,car")
    assert given["caption"] == "zebra, car"
