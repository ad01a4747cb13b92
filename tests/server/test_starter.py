"""The server with the starter bundle and its own text encoder."""

from pathlib import Path

import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, connect, predict_body, serving, ticked
from support.starter import lend

from ram_backend.demo import photo_paths
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings


@pytest.mark.slow
def test_new_words_are_embedded_by_the_real_encoder(
    starter_data: Path, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    lend(starter_data, tmp_path / "data")
    config = choices_config("striped tomcat", "red fire hydrant")
    image = studio.upload("a.jpg", next(path for path in photo_paths() if path.stem == "chelsea_cat").read_bytes())
    with serving(create_app(load_settings())) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        connect(client, studio, config, extra_params={"threshold": 0.0})
        body = predict_body(config, [image])
        wait_until(lambda: client.post("/predict", json=body).status_code == 200)
        assert ticked(client, body)[0][0] == "striped tomcat"
