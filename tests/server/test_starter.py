"""The server with the starter bundle and the bundled photos: the tags of `ram-backend tag`, for Label Studio."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, connect, predict_body, serving, ticked

from ram_backend.demo import photo_paths
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network, load_network
from ram_backend.models.registry import find_bundle
from ram_backend.server.app import create_app
from ram_backend.server.model import Model, ModelIdentity
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger

TAGS = ["cat", "dog", "giraffe", "horse", "kingfisher", "rocket", "cup", "mountain", "flower"]


@pytest.fixture(scope="module")
def bundle(starter_data: Path) -> Bundle:
    return find_bundle("starter", starter_data / "bundles")


@pytest.fixture(scope="module")
def network(bundle: Bundle) -> Network:
    return load_network(bundle, threads=1)


@pytest.fixture
def client(bundle: Bundle, network: Network) -> Iterator[httpx.Client]:
    settings = load_settings(batch_size=5)
    model = Model(settings, identity=ModelIdentity(bundle, network.encoder_id), network=network)
    with serving(create_app(settings, model=model)) as made:
        yield made


def test_scores_of_the_tagger(client: httpx.Client, studio: FakeLabelStudio, bundle: Bundle, network: Network) -> None:
    labels = "".join(f'<Label value="{tag}"/>' for tag in TAGS)
    confidence = f'<RectangleLabels name="confidence" toName="image" opacity="0">{labels}</RectangleLabels>'
    config = choices_config(*TAGS, attributes='model_score_threshold="0.0"', more=confidence)
    connect(client, studio, config)
    images = [studio.upload(path.name, path.read_bytes()) for path in photo_paths()]
    answer = client.post("/predict", json=predict_body(config, images)).json()
    tagger = Tagger(bundle, network, resolve_subset(bundle, TAGS), token_dtype=TOKEN_DTYPE)
    expected = tagger.tag([Image.open(path).convert("RGB") for path in photo_paths()]).scores
    for path, result, row in zip(photo_paths(), answer["results"], expected, strict=True):
        items = [item for item in result["result"] if item["from_name"] == "confidence"]
        found = {item["value"]["rectanglelabels"][0]: item["score"] for item in items}
        assert [found[tag] for tag in TAGS] == pytest.approx(row.tolist(), abs=1e-4), path.name
        with Image.open(path) as image:
            assert {(item["original_width"], item["original_height"]) for item in items} == {image.size}
    again = client.post("/predict", json=predict_body(config, images)).json()
    assert again == answer


@pytest.mark.slow
def test_new_words_are_embedded_by_the_real_encoder(client: httpx.Client, studio: FakeLabelStudio) -> None:
    config = choices_config("striped tomcat", "red fire hydrant")
    connect(client, studio, config, extra_params={"threshold": 0.0})
    image = studio.upload("a.jpg", next(path for path in photo_paths() if path.stem == "chelsea_cat").read_bytes())
    body = predict_body(config, [image])
    wait_until(lambda: client.post("/predict", json=body).status_code == 200, 300)
    assert ticked(client, body)[0][0] == "striped tomcat"
