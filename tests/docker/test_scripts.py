"""make-env.sh and pin-images.sh, with stand-ins for `docker` and `ip` on the path."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HEX = "0123456789abcdef"


def run(script: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Runs a script where these programs, given as shell text, come first on the path."""
    folder = script.parent.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=False)


def test_secrets_differ_and_only_the_owner_reads_them(made_env: Path, variables: dict[str, str]) -> None:
    secrets = [value for value in variables.values() if len(value) == 40]
    assert len(set(secrets)) == len(secrets) == 8
    assert made_env.stat().st_mode & 0o077 == 0
    assert ".env" in (made_env.parent / ".gitignore").read_text().splitlines()


def test_secrets_are_never_overwritten(made_env: Path) -> None:
    before = made_env.read_text()
    again = run(made_env.parent / "make-env.sh")
    assert (again.returncode, again.stderr) == (1, "docker/.env exists already: it is left as it is.\n")
    assert made_env.read_text() == before


@pytest.mark.parametrize(
    ("routes", "subnet"),
    [
        ("default via 192.0.2.1 dev eth0", "#FRONT_SUBNET=172.28.90.0/24"),
        ("172.28.0.0/16 dev br-1\n172.29.4.0/24 dev br-2", "FRONT_SUBNET=172.30.90.0/24"),
    ],
)
def test_a_network_that_is_taken_is_left_to_others(made_env: Path, routes: str, subnet: str) -> None:
    made_env.unlink()
    assert run(made_env.parent / "make-env.sh", ip=f"echo '{routes}'").returncode == 0
    assert subnet in made_env.read_text().splitlines()


def test_old_volumes_keep_their_passwords(made_env: Path) -> None:
    made_env.unlink()
    found = run(made_env.parent / "make-env.sh", docker='[ "$*" = "volume inspect ram-backend_postgres" ]')
    assert found.returncode == 0
    assert "put the old docker/.env back" in found.stderr
    made_env.unlink()
    assert run(made_env.parent / "make-env.sh", docker="exit 1").stderr == ""


def test_images_are_pinned_by_content(made_env: Path) -> None:
    folder = made_env.parent
    for digest in (HEX * 4, HEX[::-1] * 4):  # the second time other ones
        pinned = run(folder / "pin-images.sh", docker=f"echo sha256:{digest}")
        assert pinned.returncode == 0, pinned.stderr
        texts = [(folder / name).read_text() for name in ("compose.yaml", "Dockerfile")]
        assert [text.count(f"@sha256:{digest}\n") for text in texts] == [5, 1]
        assert [text.count("@sha256:") for text in texts] == [5, 1]
    unknown = run(folder / "pin-images.sh", docker="echo nothing")
    assert unknown.returncode == 1
    assert "heartexlabs/label-studio:1.23.2: the registry gives no digest" in unknown.stderr
