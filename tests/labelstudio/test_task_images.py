"""Every kind of image reference that a task may hold, many at a time, some of them broken."""

import base64
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from support.http_server import HttpServer, Reply, Request, redirect
from support.label_studio import LEGACY, PERSONAL, FakeLabelStudio

from ram_backend.errors import (
    ImageError,
    ImageRefused,
    ImageTooLarge,
    ImageUnreachable,
    ImageUnreadable,
    LabelStudioUnauthorized,
    LabelStudioUnreachable,
)
from ram_backend.images.fetch import FetchLimits
from ram_backend.images.guard import AddressGuard
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.task_images import ImageReference, TaskImages


@pytest.fixture
def studio(studio: FakeLabelStudio) -> FakeLabelStudio:
    studio.file("/data/upload/1/a.jpg", b"uploaded")
    studio.file("/data/local-files/", b"local")
    return studio


@pytest.fixture
def elsewhere() -> Iterator[HttpServer]:
    with HttpServer("127.0.0.2") as web:
        web.routes["/a.jpg"] = Reply(body=b"elsewhere")
        yield web


@pytest.fixture
def images(studio: FakeLabelStudio) -> Iterator[TaskImages]:
    client = LabelStudio(
        studio.url,
        PERSONAL,
        hostname="http://localhost:8080",
        limits=FetchLimits(max_bytes=1000, seconds=5, guard=AddressGuard.parse("127.0.0.2")),
    )
    images = TaskImages(client, threads=8)
    yield images
    images.close()


def at(value: object, task: int = 7) -> ImageReference:
    return ImageReference(task, value)


def test_files_in_label_studio(images: TaskImages, studio: FakeLabelStudio) -> None:
    assert images.fetch(at("/data/upload/1/a.jpg")) == b"uploaded"
    names = ["photos/a b.jpg", "photos/c.jpg", "photos/d.jpg"]
    for start, name in zip((" ", studio.url, "http://localhost:8080"), names, strict=True):
        assert images.fetch(at(f"{start}/data/local-files/?d={name} ")) == b"local"
    assert [parse_qs(urlsplit(one).query)["d"][0] for one in studio.targets if "local-files" in one] == names


def test_files_elsewhere_are_asked_without_the_token(images: TaskImages, elsewhere: HttpServer) -> None:
    assert images.fetch(at(f"{elsewhere.url}/a.jpg?sig=1")) == b"elsewhere"
    assert "Authorization" not in elsewhere.requests[0].headers
    assert images.fetch(at("data:image/png;base64," + base64.b64encode(b"inline").decode())) == b"inline"


@pytest.mark.parametrize(
    "uri", ["s3://bucket/photos/a b+ü.jpg", "gs://bucket/a.jpg", "azure-blob://container/a.jpg", "S3://Bucket/??>>.jpg"]
)
@pytest.mark.parametrize("signed", [True, False])
def test_cloud_storage(
    images: TaskImages, studio: FakeLabelStudio, elsewhere: HttpServer, uri: str, signed: bool
) -> None:
    elsewhere.routes["/signed"] = Reply(body=b"cloud")
    reply = redirect(f"{elsewhere.url}/signed?X-Amz-Signature=abc", 303) if signed else Reply(body=b"cloud")
    studio.file("/tasks/7/resolve/", reply)
    assert images.fetch(at(uri)) == b"cloud"
    asked = parse_qs(urlsplit(studio.targets[-1]).query)["fileuri"][0]
    assert base64.urlsafe_b64decode(asked).decode() == uri
    assert all("Authorization" not in one.headers for one in elsewhere.requests)


def test_cloud_storage_that_is_not_of_the_project_or_at_an_internal_address(
    images: TaskImages, studio: FakeLabelStudio
) -> None:
    with pytest.raises(ImageUnreadable, match=r"s3://bucket/a\.jpg: .*404.*project's storages"):
        images.fetch(at("s3://bucket/a.jpg?secret=1"))
    with HttpServer("127.0.0.3") as minio:
        studio.file("/tasks/7/resolve/", redirect(f"{minio.url}/a?X-Amz-Signature=secret", 303))
        with pytest.raises(ImageRefused, match=r"s3://b/a\.jpg.*RAM_ALLOWED_IMAGE_HOSTS") as caught:
            images.fetch(at("s3://b/a.jpg"))
        assert "secret" not in str(caught.value)
        assert minio.requests == []


@pytest.mark.parametrize("value", [None, "", "  ", 5, ["/data/a.jpg"], {"url": "x"}])
def test_no_image_in_the_task(images: TaskImages, value: object) -> None:
    with pytest.raises(ImageUnreadable, match="Task 7 names no image"):
        images.fetch(at(value))


@pytest.mark.parametrize(
    "value",
    [
        *("a.jpg", "file:///etc/passwd", "ftp://h/a.jpg", "//h/a.jpg", "/\\h/a.jpg", "C:\\a.jpg", "\x00", "data/a.jpg"),
        *("/data/upload/../../api/token", "/data/%2e%2e/logout", "/api/users/1/reset-token"),
    ],
)
def test_what_can_t_be_fetched(images: TaskImages, studio: FakeLabelStudio, value: str) -> None:
    with pytest.raises(ImageError):
        images.fetch(at(value))
    assert studio.requests == []


def test_a_long_path_is_not_decoded(images: TaskImages, studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageRefused, match="longer than"):  # and nothing about its step up
        images.fetch(at("/data/../" + "%" * 20_000))
    assert studio.requests == []


def test_a_broken_image_costs_itself_only(images: TaskImages, studio: FakeLabelStudio, elsewhere: HttpServer) -> None:
    with HttpServer("127.0.0.2") as gone:
        pass
    studio.file("/data/upload/1/large.jpg", b"x" * 1001)
    elsewhere.routes["/down.jpg"] = Reply(503)
    expected: list[tuple[object, object]] = [
        ("/data/upload/1/a.jpg", b"uploaded"),
        ("/data/upload/1/none.jpg", ImageUnreadable),
        ("/data/upload/1/large.jpg", ImageTooLarge),
        (f"{elsewhere.url}/a.jpg", b"elsewhere"),
        (f"{elsewhere.url}/none.jpg", ImageUnreadable),
        (f"{elsewhere.url}/down.jpg", ImageUnreachable),
        (f"{gone.url}/a.jpg", ImageUnreachable),
        ("http://169.254.169.254/latest/meta-data", ImageRefused),
        ("http://127.0.0.3/data/upload/1/a.jpg", ImageRefused),
        (None, ImageUnreadable),
        ("/data/upload/1/a.jpg", b"uploaded"),
    ] * 20
    outcomes = images.fetch_all(at(value, task) for task, (value, _) in enumerate(expected))
    assert [one if isinstance(one, bytes) else type(one) for one in outcomes] == [outcome for _, outcome in expected]
    assert studio.refreshed == 1
    assert list(images.fetch_all([])) == []


def test_images_are_fetched_at_the_same_time_and_a_little_ahead(images: TaskImages, studio: FakeLabelStudio) -> None:
    together = threading.Barrier(8)

    def meet(_: Request) -> Reply:
        together.wait(60)  # breaks unless eight are asked for at a time
        return Reply(body=b"x")

    taken: list[int] = []

    def references() -> Iterator[ImageReference]:
        for number in range(64):
            taken.append(number)
            yield at("/data/upload/1/slow.jpg", number)

    studio.routes["/data/upload/1/slow.jpg"] = meet
    outcomes = images.fetch_all(references())
    assert next(outcomes) == b"x"
    assert len(taken) == 16
    assert list(outcomes) == [b"x"] * 63
    assert len({one.connection for one in studio.requests}) <= 9


@pytest.mark.parametrize("login", [True, False])
def test_label_studio_away_ends_it_all(studio: FakeLabelStudio, elsewhere: HttpServer, login: bool) -> None:
    with FakeLabelStudio() as gone:
        pass
    url, token = (studio.url, "b2" * 20) if login else (gone.url, LEGACY)
    client = LabelStudio(url, token, limits=FetchLimits(guard=AddressGuard.parse("127.0.0.2")))
    images = TaskImages(client, threads=2)
    outcomes = images.fetch_all([at(f"{elsewhere.url}/a.jpg"), *[at("/data/upload/1/a.jpg")] * 50])
    assert next(outcomes) == b"elsewhere"
    with pytest.raises(LabelStudioUnauthorized if login else LabelStudioUnreachable):
        next(outcomes)
    images.close()
    assert len(studio.requests) < 20


def test_without_label_studio(elsewhere: HttpServer) -> None:
    images = TaskImages(None, limits=FetchLimits(guard=AddressGuard.parse("127.0.0.2")))
    assert images.fetch(at(f"{elsewhere.url}/a.jpg")) == b"elsewhere"
    for value in ("/data/upload/1/a.jpg", "s3://bucket/a.jpg"):
        with pytest.raises(LabelStudioUnreachable, match="LABEL_STUDIO_URL"):
            images.fetch(at(value))
    images.close()
