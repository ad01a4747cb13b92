"""A version that a project is served: named at once, read and checked when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ram_backend.errors import VersionDamaged
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import Delta, feature_width
from ram_backend.models.network import Network
from ram_backend.models.tuned import has_tuned_head, tuned_network
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import Version, open_version, version_path

ACCEPTED = "accept"

Check = Callable[[Delta, Network], None]
OnDamage = Callable[["LiveVersion", VersionDamaged], None]


@dataclass(frozen=True)
class Learned:
    """What a version is made of, in memory and checked.

    Attributes:
        delta: what it changes about the tags' scores.
        network: the bundle's own, or one with the version's head.
    """

    delta: Delta
    network: Network


class LiveVersion:
    """One version of one project, as the database names it. Its files are read once, by whoever needs them first.

    Args:
        versions_dir: where versions are.
        key: whose it is.
        name: such as "v0003".
        digest: what the database says that it has to be.
        bundle: that it belongs to.
        check: looks whether it computes what scores can be, given its delta and network; raises VersionDamaged.
        on_damage: told once, before anybody is, that it can't be used.

    Attributes:
        retired: something else is served by now: nobody need keep what was made of it.
    """

    def __init__(
        self,
        versions_dir: Path,
        key: ProjectKey,
        name: str,
        digest: str,
        *,
        bundle: Bundle,
        check: Check,
        on_damage: OnDamage,
    ) -> None:
        self.key = key
        self.name = name
        self.digest = digest
        self.retired = False
        self._path = version_path(versions_dir, key, name)
        self._bundle = bundle
        self._check = check
        self._on_damage = on_damage
        self._lock = threading.Lock()
        self._learned: Learned | None = None
        self._problem: str | None = None

    def __str__(self) -> str:
        return f"{self.name} of project {self.key}"

    def learned(self, network: Network) -> Learned:
        """What it is made of; reads it if nobody has. May take a moment: for building threads.

        Args:
            network: of the bundle.

        Raises:
            VersionDamaged: it can't be served.
        """
        with self._lock:
            if self._learned is None and self._problem is None:
                try:
                    self._learned = self._read(network)
                except VersionDamaged as error:
                    self._problem = str(error)
                    self._on_damage(self, error)
            if self._learned is None:
                raise VersionDamaged(self._problem or "")
            return self._learned

    def condemn(self, error: VersionDamaged) -> None:
        """Notes that it can't be served after all, as its scores turned out to be impossible."""
        with self._lock:
            if self._problem is None:
                self._learned, self._problem = None, str(error)
                self._on_damage(self, error)

    def _read(self, network: Network) -> Learned:
        width = feature_width(network.token_shape)
        version = open_version(self._path, self._bundle, key=self.key, digest=self.digest, width=width)
        if version.outcome != ACCEPTED:
            raise VersionDamaged(f"Version {self} was not accepted by the gate: it is never served.")
        learned = Learned(version.delta, self._network(version, network))
        self._check(learned.delta, learned.network)
        return learned

    @staticmethod
    def _network(version: Version, network: Network) -> Network:
        return tuned_network(network, version.files) if has_tuned_head(version.files) else network
