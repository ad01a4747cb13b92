"""Registry of the bundles in a data folder: list them, open one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ram_backend.errors import BundleNotFound, RamError
from ram_backend.models.bundle import MANIFEST, STARTER, Bundle, open_bundle
from ram_backend.models.hub import RELEASED


@dataclass(frozen=True)
class BundleEntry:
    """One line of a list of bundles.

    Attributes:
        kind: which network it holds; "?" where that can't be read.
        installed: False for the starter before its first use.
        summary: kind, tags and size in a few words.
        problem: why it can't be used, in one line; None: it can.
    """

    name: str
    kind: str
    path: Path
    installed: bool
    summary: str
    problem: str | None = None


def list_bundles(bundles_dir: Path) -> list[BundleEntry]:
    """All bundles by name, the starter first, installed or not."""
    entries = [_entry(path) for path in bundles_dir.glob("[!.]*") if path.is_dir()]
    if all(entry.name != STARTER for entry in entries):
        entries.append(BundleEntry(STARTER, STARTER, bundles_dir / STARTER, False, "installs itself at its first use"))
    return sorted(entries, key=lambda entry: (entry.name != STARTER, entry.name))


def find_bundle(name: str, bundles_dir: Path, *, progress: Callable[[str], Any] | None = None) -> Bundle:
    """Opens a bundle by name or path; the starter is installed where it is missing.

    Raises:
        BundleNotFound: there is none of that name.
        BundleDamaged: there is, but it can't be used.
    """
    path = bundles_dir / name
    if name == STARTER and not path.exists():
        from ram_backend.models.starter.install import install_starter

        install_starter(bundles_dir, progress=progress)
    if (path / MANIFEST).exists() or (path.is_dir() and path.parent == bundles_dir):
        return open_bundle(path)
    if (Path(name) / MANIFEST).is_file():
        return open_bundle(Path(name))
    names = ", ".join(entry.name for entry in list_bundles(bundles_dir))
    pull = f"`ram-backend bundles pull{f' {name}' if name in RELEASED else ''}`"
    raise BundleNotFound(
        f"There is no bundle {name!r} in {bundles_dir} (known: {names}). Get one with {pull} or"
        " `ram-backend bundles import`, or name one of these."
    )


def _entry(path: Path) -> BundleEntry:
    try:
        bundle = open_bundle(path)
    except RamError as error:
        return BundleEntry(path.name, "?", path, True, "damaged", problem=str(error))
    size = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    new = "any new tag" if bundle.text_encoder else "no new tags"
    summary = f"{bundle.kind}, {len(bundle.vocabulary)} tags, {new}, {size / 1e6:,.0f} MB"
    return BundleEntry(path.name, bundle.kind, path, True, summary)
