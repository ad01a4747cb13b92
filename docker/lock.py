"""Prints docker/requirements.txt: all that the images hold, in the versions of the environment that runs this.

    .venv/bin/python docker/lock.py > docker/requirements.txt

Left out is what torch itself pins for its CUDA build, so that the same file does for a CPU-only torch.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("postgres", "low-rank")
TORCHS_OWN = ("nvidia-", "cuda-", "triton", "setuptools")
HEAD = (
    "# Written by docker/lock.py: the versions that the tests have run with. The images install these.",
    "# torch and torchvision come first and from an index of their own (TORCH_INDEX in the Dockerfile).",
)


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """All distributions that the wanted ones need here, name to version; extras and markers are heeded."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if name.startswith(TORCHS_OWN) or (name, extra) in seen:
                continue
            seen.add((name, extra))
            found = distribution(name)
            versions[name] = found.version.partition("+")[0]
            needs = [Requirement(text) for text in found.requires or []]
            wanted += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return versions


def main() -> None:
    """Writes the file to standard output."""
    text = Path(__file__).resolve().parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    asked = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    versions = closure([Requirement(each) for each in asked])
    sys.stdout.write("\n".join([*HEAD, *(f"{name}=={versions[name]}" for name in sorted(versions))]) + "\n")


if __name__ == "__main__":
    main()
