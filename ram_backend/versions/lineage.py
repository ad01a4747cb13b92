"""Lineage of a version: parent, bundle, training data, trainer and metrics; enough to make it again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from ram_backend.errors import VersionDamaged


@dataclass(frozen=True)
class CorrectionsUsed:
    """The corrections that a version was trained on.

    Attributes:
        count: number of images with corrections.
        first_event: smallest id of the ledger's events behind them; 0: none.
        last_event: largest such id.
        seen: id of the ledger's last event of any kind at that time.
        hash: hex digest of the corrections.
        withdrawn: corrections that the parent was trained on and that were edited or withdrawn since.
        added: corrections that the parent was not trained on.
    """

    count: int
    first_event: int
    last_event: int
    seen: int
    hash: str
    withdrawn: int = 0
    added: int = 0


@dataclass(frozen=True)
class Lineage:
    """How a version came about.

    Attributes:
        parent: name of the version that was served when it was made; None: the bundle's base.
        bundle: name of the bundle.
        bundle_digest: digest of the bundle, 64 hex digits.
        encoder_id: of the network that made the image tokens.
        corrections: its training data.
        recipe: name of the trainer.
        params: the trainer's settings.
        seed: of its random numbers.
        metrics_before: metrics of the parent on the gate's images, by name.
        metrics_after: metrics of this version on the same images.
        gate_share: share of the corrected images that were held out for the gate, in [0, 1].
        code_version: of this package.
        created_at: when it was made, UTC.
    """

    parent: str | None
    bundle: str
    bundle_digest: str
    encoder_id: str
    corrections: CorrectionsUsed
    recipe: str
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    metrics_before: Mapping[str, float] = field(default_factory=dict)
    metrics_after: Mapping[str, float] = field(default_factory=dict)
    gate_share: float = 0.0
    code_version: str = ""
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {
            "parent": self.parent,
            "bundle": {"name": self.bundle, "digest": self.bundle_digest},
            "encoder_id": self.encoder_id,
            "corrections": asdict(self.corrections),
            "recipe": self.recipe,
            "params": dict(self.params),
            "seed": self.seed,
            "metrics": {"before": dict(self.metrics_before), "after": dict(self.metrics_after)},
            "gate_share": self.gate_share,
            "code_version": self.code_version,
            "created_at": self.created_at.astimezone(UTC).isoformat(),
        }

    @classmethod
    def from_json(cls, value: Any) -> Lineage:
        """Reads what `to_json` wrote.

        Raises:
            VersionDamaged: a field is missing or of the wrong type.
        """
        try:
            return cls(
                parent=None if value["parent"] is None else str(value["parent"]),
                bundle=str(value["bundle"]["name"]),
                bundle_digest=str(value["bundle"]["digest"]),
                encoder_id=str(value["encoder_id"]),
                corrections=_corrections_used(value["corrections"]),
                recipe=str(value["recipe"]),
                params=dict(value["params"]),
                seed=int(value["seed"]),
                metrics_before=_figures(value["metrics"]["before"]),
                metrics_after=_figures(value["metrics"]["after"]),
                gate_share=float(value["gate_share"]),
                code_version=str(value["code_version"]),
                created_at=datetime.fromisoformat(value["created_at"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"A version's lineage can't be read ({type(error).__name__}: {error}): train again."
            raise VersionDamaged(message) from None


def _corrections_used(value: Mapping[str, Any]) -> CorrectionsUsed:
    known = {"seen": value["last_event"], **value}  # early versions lack "seen"
    counts = {each.name: int(known[each.name]) for each in fields(CorrectionsUsed) if each.name != "hash"}
    return CorrectionsUsed(hash=str(known["hash"]), **counts)


def _figures(value: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(figure) for name, figure in value.items()}
