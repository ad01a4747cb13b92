"""The tests' fake Label Studio, with photos as uploads."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ram_backend.demo import photo_paths

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.http_server import Reply, Request
from support.label_studio import FakeLabelStudio


class PhotoStudio(FakeLabelStudio):
    """Answers `/data/upload/1/NUMBER.jpg` with a photo, without login; each number is another file of the same pixels.

    Args:
        photos: their bytes.
    """

    def __init__(self, photos: Sequence[bytes]) -> None:
        super().__init__(project=1)
        self.photos = photos

    def reply(self, request: Request) -> Reply:
        """The photo of the number, or what Label Studio answers."""
        if not request.path.startswith("/data/upload/"):
            return super().reply(request)
        number = int(Path(request.path).stem)
        return Reply(body=self.photos[number % len(self.photos)] + number.to_bytes(8, "big"))


def play_label_studio(port: Any, photos: Sequence[bytes] | None = None) -> None:
    """Serves photos (None: those that come with the package) in this process, and puts its port into the queue."""
    studio = PhotoStudio(photos or [path.read_bytes() for path in photo_paths()])
    port.put(studio.port)
    threading.Event().wait()


def start_label_studio(play: Callable[[Any], None] = play_label_studio) -> tuple[BaseProcess, str]:
    """Runs `play` in a process that ends with this one; gives it, and its address."""
    spawn = multiprocessing.get_context("spawn")
    port: Any = spawn.Queue()
    studio = spawn.Process(target=play, args=(port,), daemon=True)
    studio.start()
    return studio, f"http://127.0.0.1:{port.get(timeout=120)}"
