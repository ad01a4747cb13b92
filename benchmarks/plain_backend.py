"""A plain backend, as Label Studio's examples are written: what `throughput.py` compares ours with.

    python benchmarks/plain_backend.py LABEL_STUDIO_URL

Modules and weights are loaded once; a server with a thread per connection (`http.server`, as Flask's own development
server has); torch as it comes, the starter in fp32; a loop over the tasks of a request, one image at a time. Fetching
is a plain GET, decoding and preprocessing are the same calls as ours. In the plain one's favour: the head runs in the
engine that ours has, its tags are prepared once, and what the protocol asks for beyond tags is left out.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.etree import ElementTree

import torch

from ram_backend.images.decode import decode
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.models.starter.export import encoder_weights_path, load_encoder
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger


class PlainModel:
    """The starter: encoder in torch, head beside it.

    Args:
        bundle: the starter.
        studio: address of Label Studio.
    """

    def __init__(self, bundle: Bundle, studio: str) -> None:
        self._bundle = bundle
        self._studio = studio
        self._encoder = load_encoder(encoder_weights_path())[0]
        self._network = load_network(bundle)
        self._taggers: dict[tuple[str, ...], Tagger] = {}

    def predict(self, tasks: Sequence[dict[str, Any]], label_config: str) -> list[dict[str, Any]]:
        """One prediction per task, one task after another."""
        tags = tuple(each.attrib["value"] for each in ElementTree.fromstring(label_config).iter("Choice"))
        if tags not in self._taggers:
            self._taggers[tags] = Tagger(self._bundle, self._network, resolve_subset(self._bundle, tags))
        return [self._one(task, self._taggers[tags], tags) for task in tasks]

    def _one(self, task: dict[str, Any], tagger: Tagger, tags: Sequence[str]) -> dict[str, Any]:
        with urllib.request.urlopen(self._studio + task["data"]["image"], timeout=60) as answer:
            data = answer.read()
        settings, preprocessing = load_settings(), self._bundle.preprocessing
        image, _ = decode(
            data,
            exif_orientation=preprocessing.exif_orientation,
            alpha=preprocessing.alpha,
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
        )
        with torch.inference_mode():
            tokens = self._encoder(torch.from_numpy(preprocessing(image))[None]).numpy()
        scored = tagger.score(tokens)
        on = [tag for tag, score, limit in zip(tags, scored.scores[0], tagger.thresholds, strict=True) if score > limit]
        value = {"taxonomy": [[tag] for tag in on]}
        result = {"from_name": "tags", "to_name": "image", "type": "taxonomy", "value": value}
        return {"result": [result], "score": float(scored.scores[0].max()), "model_version": "plain"}


class Handler(BaseHTTPRequestHandler):
    """`/predict`, and any other route as a sign of life."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    model: PlainModel

    def do_GET(self) -> None:
        """The server is up."""
        self._answer({"status": "UP"})

    def do_POST(self) -> None:
        """Predictions for tasks."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/predict":
            self._answer({"results": self.model.predict(body["tasks"], body["label_config"])})
        else:
            self._answer({"model_version": "plain"})

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Loads the model, says its address, and serves until it is ended."""
    settings = load_settings()
    Handler.model = PlainModel(find_bundle("starter", settings.bundles_dir), sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"plain backend serves http://127.0.0.1:{server.server_address[1]} with {torch.get_num_threads()} threads")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
