"""The photos that come with the package: small, decodable, of known origin; and what a person sees on them."""

import re

from ram_backend.demo import photo_paths


def test_every_photo_has_its_origin_and_licence_named() -> None:
    text = (photo_paths()[0].parent / "PROVENANCE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+\.jpg)` \|(.+)$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [path.name for path in photo_paths()]
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for name, row in rows:
        section = next(part for part in sections if f"`{name}`" in part)
        stated = row if "licence as stated |" in section else section.partition("|")[0]
        assert re.search(r"CC0|public domain", stated, re.IGNORECASE), name
