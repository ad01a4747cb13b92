"""Official files become bundles, or one line says why not, and nothing is left."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import reference, tiny
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from ram_backend.errors import CheckpointError, VocabularyError
from ram_backend.models import official
from ram_backend.models.bundle import Bundle, open_bundle, verify
from ram_backend.models.network import load_network
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.ram import Architecture

State = dict[str, Tensor]


def refusal(folder: Path, kind: str = "ram", **options: Any) -> str:
    """The one line that refuses the file of a folder; checks that nothing was left."""
    with pytest.raises((CheckpointError, VocabularyError)) as caught:
        tiny.loaded(folder, kind, **options)
    bundles = folder / "bundles"
    assert not bundles.exists() or not [path for path in bundles.iterdir() if path.is_dir()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(folder: Path, kind: str, state: State, names: Sequence[str] = tiny.TAGS) -> str:
    """The line that refuses these weights."""
    tiny.write(folder, kind, state, names)
    return refusal(folder, kind)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_kind_and_numbers_are_seen_from_the_file(tmp_path: Path, kind: str) -> None:
    bundle = tiny.imported(tmp_path, kind)
    assert bundle.kind == kind
    assert Architecture.from_json(bundle.manifest["architecture"]) == tiny.architecture(kind)
    assert bundle.vocabulary.names == tiny.TAGS
    assert set(bundle.vocabulary.thresholds.tolist()) == {np.float32(0.68).item()}
    assert bundle.text_encoder == (None if kind == "tag2text" else "clip-vit-b-16")
    assert bundle.preprocessing == Preprocessing(size=tiny.IMAGE)


@pytest.mark.parametrize("kind", ["ram", "tag2text"])
def test_the_captioner_s_weights_are_kept_and_not_read_by_tagging(tmp_path: Path, kind: str) -> None:
    state = tiny.state_dict(kind)
    tied = "tag_encoder.encoder.layer.1.output.dense.bias"
    state[tied] = state["tagging_head.encoder.layer.1.output.dense.bias"]
    bundle = tiny.imported(tmp_path, kind, state)
    kept = load_file(bundle.path / "captioner.safetensors")
    wanted = {key for key in state if key.startswith(("tag_encoder.", "text_decoder."))}
    wanted -= {tied, "tag_encoder.embeddings.position_ids", "tag_encoder.encoder.layer.0.output.dense.bias"}
    assert kept.keys() == wanted
    for key in wanted:
        np.testing.assert_array_equal(kept[key], state[key].numpy())
    assert bundle.lacks_captioner is None
    verify(bundle)
    (bundle.path / "captioner.safetensors").write_bytes(b"0" * (bundle.path / "captioner.safetensors").stat().st_size)
    load_network(bundle, device="cpu").encode(tiny.images(1).numpy())


def test_a_bundle_without_a_captioner_says_why(tmp_path: Path) -> None:
    assert "no captioner" in str(tiny.imported(tmp_path / "a", "ram_plus").lacks_captioner)
    state = {key: value for key, value in tiny.state_dict("ram").items() if not reference.is_caption_key(key)}
    bundle = tiny.imported(tmp_path / "b", "ram", state)
    assert "the imported file had none" in str(bundle.lacks_captioner)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    del manifest["provenance"]["captioner_keys"]  # as bundles were written that dropped the captioner
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    assert "imported before they were kept: import the file again" in str(open_bundle(bundle.path).lacks_captioner)


@pytest.mark.parametrize("value", [float("nan"), "half"])
def test_a_damaged_captioner_is_refused(tmp_path: Path, value: float | str) -> None:
    state = tiny.state_dict("ram")
    key = "text_decoder.cls.predictions.bias"
    state[key] = state[key].half() if value == "half" else torch.full_like(state[key], float(value))
    assert repr(key) in refused(tmp_path, "ram", state)


def test_provenance_names_the_sources_and_the_digest_follows_them(tmp_path: Path) -> None:
    bundle = tiny.imported(tmp_path, "ram", origin={"commit": "abc"})
    again = tiny.imported(tmp_path / "b", "ram", name="other-name")
    changed = tiny.imported(tmp_path / "c", "ram", tiny.state_dict("ram", salt="other:"))
    assert bundle.digest == again.digest != changed.digest
    source = bundle.manifest["provenance"]["sources"]["checkpoint"]
    content = (tmp_path / "ram.pth").read_bytes()
    assert source == {"file": "ram.pth", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert bundle.manifest["provenance"]["origin"] == {"commit": "abc"}
    assert bundle.manifest["licence"].startswith("Apache-2.0")
    moments = {"state": {0: {"exp_avg": torch.zeros(100_000)}}, "param_groups": [{"lr": 1e-5}]}
    tiny.write(tmp_path / "d", "ram", optimizer=moments, config={"vit": "swin_l"})
    dropped = {"beside_weights": ["config", "epoch", "optimizer"], "structural_keys": 9, "tied_keys": 1}
    assert tiny.loaded(tmp_path / "d", "ram").manifest["provenance"]["dropped"] == dropped | {"extra_keys": []}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_all_ways_to_write_a_file_give_the_same_network(tmp_path: Path, kind: str) -> None:
    pixels = tiny.images(1).numpy()

    def logits(bundle: Bundle) -> np.ndarray:
        network = load_network(bundle, device="cpu")
        return network.logits(network.encode(pixels), network.select(range(7)))

    state = tiny.state_dict(kind)
    usual = logits(tiny.imported(tmp_path / "usual", kind))
    old = {key.replace("tagging_head", "vision_multi"): value for key, value in state.items()}
    bare = {key: value for key, value in state.items() if not tiny.is_structural(key)}
    both = {**old, **state, "vision_multi.encoder.layer.0.output.dense.bias": torch.full((tiny.HIDDEN,), 9.0)}
    for number, variant in enumerate((old, bare, both)):
        np.testing.assert_array_equal(logits(tiny.imported(tmp_path / str(number), kind, variant)), usual)
    for zipped in (True, False):
        file, _ = tiny.write(tmp_path / f"{zipped}", kind)
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        np.testing.assert_array_equal(logits(tiny.loaded(tmp_path / f"{zipped}", kind)), usual)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("ram_backend.models.importing.save_file", full)
    assert "No space left" in refused(tmp_path, "ram", tiny.state_dict("ram"))


def test_tag2texts_own_list_gets_the_authors_exceptions(tmp_path: Path) -> None:
    tiny.write(tmp_path, "tag2text", tiny.state_dict("tag2text", tags=3429), [f"tag{i}" for i in range(3429)])
    bundle = tiny.loaded(tmp_path, "tag2text")
    special = {index: bundle.vocabulary[index].threshold for index in (2701, 2828, 1167, 127, 3359, 0)}
    assert special == {2701: 0.7, 2828: 0.7, 1167: 0.7, 127: 1.0, 3359: 1.0, 0: 0.68}
    assert bundle.manifest["provenance"]["deleted_tags"] == [127, 2961, 3351, 3265, 3338, 3355, 3359]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_tags_is_refused(tmp_path: Path, kind: str, change: int) -> None:
    line = refused(tmp_path, kind, tiny.state_dict(kind), [*tiny.TAGS, "one more"][: 7 + change])
    assert re.search(rf"{kind}\.pth.*label_embed.*tag list", line)


@pytest.mark.parametrize("key", ["visual_encoder.patch_embed.proj.weight", "wordvec_proj.bias", "label_embed"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "NaN or infinity") for value in (float("nan"), float("inf"), float("-inf"))),
        *((dtype, "float32 is needed") for dtype in (torch.float16, torch.float64, torch.int64)),
        ("wider", " has "),
    ],
)
def test_other_values_types_and_shapes_are_refused(tmp_path: Path, key: str, value: object, reason: str) -> None:
    state = tiny.state_dict("ram")
    if isinstance(value, float):
        state[key].view(-1)[-1] = value
    elif isinstance(value, torch.dtype):
        state[key] = state[key].to(value)
    else:
        state[key] = torch.cat([state[key], state[key][..., :1]], dim=-1)
        reason = str(tuple(state[key].shape))
    line = refused(tmp_path, "ram", state)
    assert repr(key) in line
    assert reason in line


def released(folder: Path, kind: str, change: Callable[[State], Any]) -> str:
    """The line that refuses a changed file with the keys and shapes of the released ones; takes next to no room."""
    each = official.DESCRIPTIONS_PER_TAG if kind == "ram_plus" else 1
    count = 3429 if kind == "tag2text" else 4585
    shapes = official.expected_shapes(kind, tiny.RELEASED[kind], count, each)  # type: ignore[arg-type]
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    change(state)
    tiny.write(folder, kind, state, [f"tag{i}" for i in range(count)])
    return refusal(folder, kind, image_size=None, descriptions=None)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_released_file_for_224_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    def shrink(state: State) -> None:
        for key in state:
            if key.endswith("relative_position_bias_table"):
                state[key] = torch.zeros(()).expand(169, state[key].shape[1])

    said = r"relative_position_bias_table' has 169 rows, 529 are needed.*224 pixels"
    assert re.search(said, released(tmp_path, kind, shrink))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_key_that_is_missing_in_a_released_file_is_named(tmp_path: Path, kind: str) -> None:
    shapes = official.expected_shapes(kind, tiny.RELEASED[kind], 4585, 1)  # type: ignore[arg-type]
    for number, key in enumerate([*list(shapes)[::60], *list(shapes)[-6:]]):
        line = released(tmp_path / str(number), kind, lambda state, key=key: state.pop(key))  # type: ignore[misc]
        assert re.search(rf"key '{re.escape(key)}'.* is missing", line)


def test_unknown_keys_are_listed_and_refused_unless_allowed(tmp_path: Path) -> None:
    state = {**tiny.state_dict("ram_plus"), "adapter.down": torch.zeros(3), "adapter.up": torch.zeros(3)}
    line = refused(tmp_path, "ram_plus", state)
    assert "'adapter.down', 'adapter.up'" in line
    assert "--allow-extra" in line
    bundle = tiny.imported(tmp_path / "allowed", "ram_plus", state, allow_extra=True)
    assert bundle.manifest["provenance"]["dropped"]["extra_keys"] == ["adapter.down", "adapter.up"]


def test_the_part_of_a_tensor_is_seen_from_its_key() -> None:
    parts = {
        "tag_encoder.encoder.layer.1.crossattention.self.key.bias": "tied",
        "tag_encoder.encoder.layer.1.attention.self.key.bias": "captioner",
        "tag_encoder.encoder.layer.10.output.dense.bias": "captioner",
        "text_decoder.cls.predictions.decoder.weight": "tied",
    }
    assert {key: official.part_of(key) for key in parts} == parts


class _Code:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("the-code-ran"),))  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, _ = tiny.write(tmp_path, "ram")
    torch.save({"model": tiny.state_dict("ram"), "config": _Code()}, file, _use_new_zipfile_serialization=zipped)
    assert re.search(r"ram\.pth: refused.*could run any code.*plain weights", refusal(tmp_path))
    assert not (tmp_path / "the-code-ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    file, _ = tiny.write(tmp_path, "ram")
    torch.save(tiny.state_dict("ram"), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert re.search(r"ram\.pth.*download it again", refusal(tmp_path))


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2, 2)}, {"model": {"a": 1}}, [torch.zeros(2)], {}])
def test_files_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    file, _ = tiny.write(tmp_path, "ram")
    torch.save(content, file)
    assert "ram.pth" in refusal(tmp_path)
    file.write_text("not a torch file at all")
    assert "not a file that torch.save writes" in refusal(tmp_path)
    file.unlink()
    assert "no such file" in refusal(tmp_path)
