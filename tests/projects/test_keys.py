"""Which project is meant."""

import pytest

from ram_backend.errors import InputError, ProjectAmbiguous, ProjectNotFound
from ram_backend.projects.keys import ProjectKey, instance_of, parse_project, select

LOCAL, REMOTE = "http://localhost:8080", "https://ls.example.com"
OLD, NEW, OTHER = ProjectKey(LOCAL, 1, 100), ProjectKey(LOCAL, 1, 200), ProjectKey(LOCAL, 12, 300)
ELSEWHERE = ProjectKey(REMOTE, 1, 200)
ALL = [OTHER, NEW, ELSEWHERE, OLD]


@pytest.mark.parametrize(
    ("text", "expected"), [("1.1795452148", (1, 1795452148)), ("7", (7, 0)), (7, (7, 0)), (" 3.4 ", (3, 4))]
)
def test_project_and_creation_time(text: str | int, expected: tuple[int, int]) -> None:
    assert parse_project(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "1.", ".1", "1.2.3", "-1.2", "1,2", "٣.4", True, "²", "9223372036854775808", "1" * 5000]
)
def test_what_is_no_project(text: str) -> None:
    with pytest.raises(InputError, match="names no project"):
        parse_project(text)


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://LocalHost:8080/", "http://localhost:8080"),
        ("https://ls.example.com:443/", "https://ls.example.com"),
        ("http://ls.example.com:80", "http://ls.example.com"),
        ("https://ls.example.com/label-studio/", "https://ls.example.com/label-studio"),
        ("http://admin:secret@ls.example.com", "http://ls.example.com"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("label-studio:8080", "http://label-studio:8080"),
        ("https://bücher.example\n", "https://xn--bcher-kva.example"),
        (None, ""),
        (" ", ""),
    ],
)
def test_one_spelling_for_one_label_studio(hostname: str | None, expected: str) -> None:
    assert instance_of(hostname) == expected
    assert instance_of(expected) == expected


@pytest.mark.parametrize(
    "hostname",
    [
        *["ftp://admin:secret@x", "http://", "http://a b", "http://x:99999", "file:///etc", "http://[::"],
        *["http://a\\b", "http://x/" + "a" * 2000],
    ],
)
def test_what_is_no_address(hostname: str) -> None:
    with pytest.raises(InputError, match="not an address of a Label Studio") as caught:
        instance_of(hostname)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", OTHER),
        ("1.100", OLD),
        (f"1@{REMOTE}", ELSEWHERE),
        (f"1.200@{LOCAL}/", NEW),
        *((str(key), key) for key in ALL),
    ],
)
def test_one_is_found(text: str, expected: ProjectKey) -> None:
    assert select(ALL, text) == expected


@pytest.mark.parametrize(
    ("text", "candidates"), [("1", [OLD, NEW, ELSEWHERE]), ("1.200", [NEW, ELSEWHERE]), (f"1@{LOCAL}", [OLD, NEW])]
)
def test_an_ambiguous_one_names_the_candidates(text: str, candidates: list[ProjectKey]) -> None:
    with pytest.raises(ProjectAmbiguous) as caught:
        select(ALL, text)
    named = [key for key in ALL if str(key) in str(caught.value)]
    assert sorted(named) == sorted(candidates)
    assert [select(ALL, str(key)) for key in candidates] == candidates


def test_none_is_found() -> None:
    with pytest.raises(ProjectNotFound, match=r"no project 2 \(known: 1.100@http://localhost:8080, "):
        select(ALL, "2")
    with pytest.raises(ProjectNotFound, match="connect this backend"):
        select([], "1")
    with pytest.raises(InputError, match="names no project"):
        select(ALL, "demo")
