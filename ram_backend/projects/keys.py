"""Project keys (instance, number, creation time), and their parser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ram_backend.errors import ImageRefused, InputError, ProjectAmbiguous, ProjectNotFound, listed
from ram_backend.images.guard import Address, redacted

_LARGEST = 2**63 - 1
_LONGEST_ADDRESS = 2000


@dataclass(frozen=True, order=True)
class ProjectKey:
    """The identity of a project; one that is made anew with the same number has another.

    Attributes:
        instance: address of its Label Studio, as `instance_of` writes it; ""
            where no request has named one.
        id: its number in Label Studio.
        created: creation time in Unix seconds; 0 where the client doesn't give
            one.
    """

    instance: str
    id: int
    created: int

    def __str__(self) -> str:
        return f"{self.id}.{self.created}@{self.instance}" if self.instance else f"{self.id}.{self.created}"


def parse_project(project: str | int) -> tuple[int, int]:
    """(number, creation time) of "1.1795452148"; the latter is 0 if left out.

    Raises:
        InputError: it is malformed.
    """
    match = re.fullmatch(r"(\d{1,19})(?:\.(\d{1,19}))?", str(project).strip(), re.ASCII)
    number, created = (int(match[1]), int(match[2] or 0)) if match else (-1, -1)
    if not 0 <= max(number, created) <= _LARGEST:
        shown = repr(str(project)[:60])
        raise InputError(f"project={shown} names no project: expected NUMBER.CREATED, such as 1.1795452148.")
    return number, created


def instance_of(hostname: str | None, *, of: str = "a Label Studio") -> str:
    """Normalised address of a server: scheme, host, unusual port, path; "" for none.

    Raises:
        InputError: it is not an http(s) address.
    """
    text = (hostname or "").strip()
    if not text:
        return ""
    url = re.split(r"[?#]", text if "://" in text else f"http://{text}")[0]
    try:
        if len(text) > _LONGEST_ADDRESS or re.search(r"[\s\\]", text):
            raise ImageRefused("no address")
        address = Address.of(re.sub(r"//[^/]*@", "//", url, count=1))
    except ImageRefused:
        shown = f"{redacted(text)[:80]!r} is not an address of {of}"
        raise InputError(f"{shown}: expected http://HOST:PORT or https://HOST.") from None
    return f"{address.origin}{address.target.rstrip('/')}"


def select(keys: Iterable[ProjectKey], text: str) -> ProjectKey:
    """The one project named by "1", "1.1795452148", or either with "@http://localhost:8080".

    Raises:
        ProjectNotFound: none of them; the message lists all.
        ProjectAmbiguous: several; the message lists them.
        InputError: it is malformed.
    """
    reference, _, hostname = text.strip().partition("@")
    number, created = parse_project(reference)
    instance, known_keys = instance_of(hostname), sorted(keys)
    same = [key for key in known_keys if key.id == number and (key.created == created or "." not in reference)]
    found = [key for key in same if instance in ("", key.instance)]
    if not found:
        known = listed(known_keys, 20) or "none yet: connect this backend in Label Studio first"
        raise ProjectNotFound(f"There is no project {text.strip()} (known: {known}).")
    if len(found) > 1:
        raise ProjectAmbiguous(f"{text.strip()} may be any of {len(found)} projects; name one: {listed(found, 20)}.")
    return found[0]
