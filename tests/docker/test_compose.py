"""The compose file: valid, complete, without default passwords, and as closed as it says."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from ram_backend.database.engine import open_database
from ram_backend.settings import Settings, load_settings

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
OURS = ("backend", "worker", "worker-gpu")
SECRETS = {
    "POSTGRES_PASSWORD",
    "LABEL_STUDIO_DB_PASSWORD",
    "BACKEND_DB_PASSWORD",
    "VALKEY_PASSWORD",
    "LABEL_STUDIO_PASSWORD",
    "LABEL_STUDIO_API_KEY",
}
USED = re.compile(r"\$\{(\w+)")
EXAMPLE = re.compile(r"^#?([A-Z_]+)=", re.MULTILINE)


def schema_check(path: Path) -> subprocess.CompletedProcess[str]:
    """Compares a file with the schema of the compose specification (vendored by check-jsonschema)."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def settings_variables() -> set[str]:
    """All environment variables that `Settings` reads."""
    names = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names |= {str(each) for each in alias.choices} if isinstance(alias, AliasChoices) else {f"RAM_{name.upper()}"}
    return names


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_follows_the_specification(name: str) -> None:
    checked = schema_check(DOCKER / name)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_that_check_would_notice(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((DOCKER / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_time", 1))
    assert schema_check(broken).returncode == 1


def test_the_overlay_names_services_that_are_there(compose: Any) -> None:
    overlay = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert overlay["services"].keys() <= compose.services.keys()
    device = overlay["services"]["backend"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == compose.services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]


def test_every_setting_that_is_passed_on_exists(compose: Any) -> None:
    known = settings_variables() | {"HF_ENDPOINT", "HF_TOKEN"}
    for name in OURS:
        assert compose.services[name]["environment"].keys() - known == set()
    example = {name for name in EXAMPLE.findall((DOCKER / ".env.example").read_text()) if name.startswith("RAM_")}
    assert example
    assert example - known == set()


def test_the_example_and_the_compose_file_name_the_same_variables(compose: Any) -> None:
    passed_on = {key for key, value in compose.services["backend"]["environment"].items() if value is None}
    example = set(EXAMPLE.findall((DOCKER / ".env.example").read_text()))
    assert example - {"COMPOSE_PROFILES"} == passed_on | set(USED.findall(compose.text))


def test_the_backend_starts_with_what_is_passed_on(
    compose: Any, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose.replaced(variables)["services"]["backend"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.bundle == "starter"
    assert settings.redis_url == f"redis://:{variables['VALKEY_PASSWORD']}@valkey:6379/0"
    assert settings.label_studio_url == "http://label-studio:8080"
    assert settings.label_studio_api_key == variables["LABEL_STUDIO_API_KEY"]
    database = open_database(settings)
    url = database.engine.url
    assert (url.username, url.password) == ("ram_backend", variables["BACKEND_DB_PASSWORD"])
    assert (url.host, url.port, url.database) == ("postgres", 5432, "ram_backend")


def test_values_of_one_s_own_are_passed_on(compose: Any, variables: dict[str, str]) -> None:
    more = {"RAM_THREADS": "3", "RAM_WEBHOOK_SECRET": "psst"}
    environment = compose.replaced(variables | more)["services"]["backend"]["environment"]
    assert {name: environment[name] for name in more} == more
    assert "RAM_THREADS" not in compose.replaced(variables)["services"]["backend"]["environment"]


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_without_a_secret_it_says_what_to_do(compose: Any, variables: dict[str, str], name: str) -> None:
    assert variables[name]
    with pytest.raises(KeyError, match=rf"{name}: set it in docker/\.env"):
        compose.replaced(variables | {name: ""})


def test_no_secret_has_a_default(compose: Any) -> None:
    guarded = set(re.findall(r"\$\{(\w+):\?", compose.text))
    assert guarded >= SECRETS
    defaults = set(re.findall(r"\$\{(\w+):-", compose.text))
    assert not any(re.search("PASS|SECRET|TOKEN|KEY", name) for name in defaults)
    for service in compose.services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY|USER_TOKEN", name) and value is not None:
                assert str(value).startswith("${"), name


def test_made_secrets_fit_into_addresses_and_differ(made_env: Path, variables: dict[str, str]) -> None:
    assert all(re.fullmatch("[0-9a-f]{40}", variables[name]) for name in SECRETS)
    assert len({variables[name] for name in SECRETS}) == len(SECRETS)
    assert made_env.stat().st_mode & 0o077 == 0


def test_made_secrets_are_never_overwritten(made_env: Path) -> None:
    before = made_env.read_text()
    again = subprocess.run(["sh", made_env.parent / "make-env.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert made_env.read_text() == before
    ignored = (DOCKER / ".gitignore").read_text().splitlines()
    assert ".env" in ignored


def test_images_are_pinned(compose: Any) -> None:
    images = {service["image"] for service in compose.services.values()}
    built = {image for image in images if image.startswith("ram-backend:")}
    assert built == {"ram-backend:cpu", "ram-backend:cuda"}
    for image in images - built:
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image)


def test_label_studio_is_the_one_that_the_project_is_tested_with(compose: Any) -> None:
    makefile = (DOCKER.parent / "Makefile").read_text()
    version = re.search(r"^STUDIO_VERSION := (.*)$", makefile, re.MULTILINE)
    assert version is not None
    assert compose.services["label-studio"]["image"] == f"heartexlabs/label-studio:{version[1]}"


def test_one_worker_per_profile_like_the_backend(compose: Any) -> None:
    services = compose.services
    assert (services["worker"]["profiles"], services["worker-gpu"]["profiles"]) == (["cpu"], ["gpu"])
    assert "profiles" not in services["backend"]
    for name in ("worker", "worker-gpu"):
        assert services[name]["command"] == ["worker"]
        assert services[name]["environment"] == services["backend"]["environment"]
        assert services[name]["volumes"] == services["backend"]["volumes"] == ["data:/data"]
        assert services[name]["healthcheck"]["test"][-1] == "worker"
        assert "ports" not in services[name]
    assert services["worker-gpu"]["build"]["dockerfile"] == "docker/cuda.Dockerfile"


def test_our_containers_can_do_little(compose: Any) -> None:
    for name in OURS:
        service = compose.services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


def test_what_it_names_is_there(compose: Any) -> None:
    for service in compose.services.values():
        needs = service.get("depends_on", {})
        for needed in needs:
            assert needed in compose.services
            condition = needs[needed]["condition"] if isinstance(needs, dict) else "service_started"
            assert condition != "service_healthy" or needed == "backend" or "healthcheck" in compose.services[needed]
        assert set(service["networks"]) <= compose.content["networks"].keys()
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DOCKER / source).is_dir() if source.startswith(".") else source in compose.content["volumes"]
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_only_this_machine_reaches_the_ports(compose: Any, variables: dict[str, str]) -> None:
    services = compose.replaced(variables)["services"]
    ports = {port for service in services.values() for port in service.get("ports", [])}
    assert ports == {"127.0.0.1:8080:8080", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"}


def test_label_studio_meets_the_backend_only(compose: Any) -> None:
    near = {
        name
        for name, service in compose.services.items()
        if set(service["networks"]) & set(compose.services["label-studio"]["networks"])
    }
    assert near == {"label-studio", "backend", "worker", "worker-gpu", "postgres"}
    assert compose.services["valkey"]["networks"] == ["backend-data"]
    assert all(compose.content["networks"][name]["internal"] for name in ("studio-data", "backend-data"))


def test_label_studio_may_ask_the_backend_and_no_other_internal_address(
    compose: Any, variables: dict[str, str]
) -> None:
    content = compose.replaced(variables)
    environment = content["services"]["label-studio"]["environment"]
    assert environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert {"SSRF_PROTECTION_ENABLED", "ML_BLOCK_LOCAL_IP"}.isdisjoint(environment)
    banned = [ipaddress.ip_network(each) for each in environment["USER_ADDITIONAL_BANNED_SUBNETS"].split(",")]

    def is_banned(address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in banned)

    front = ipaddress.ip_network(content["networks"]["front"]["ipam"]["config"][0]["subnet"])
    assert not any(is_banned(str(each)) for each in (front[1], front[-2]))
    internal = ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1")
    assert [each for each in (*internal, "fe80::1", "::ffff:127.0.0.1", "224.0.0.1") if not is_banned(each)] == []


def test_label_studio_can_make_a_webhook(compose: Any) -> None:
    """It checks a webhook's address with Django's URL validator, and skips the webhook where the host has no dot."""
    (alias,) = compose.services["backend"]["networks"]["front"]["aliases"]
    assert re.fullmatch(r"[a-z0-9-]+\.[a-z]{2,}", alias)
    assert f"http://{alias}:9090" in compose.text


def test_the_queue_keeps_what_it_was_told(compose: Any) -> None:
    command = compose.services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert compose.services["valkey"]["volumes"] == ["valkey:/data"]


def test_two_programs_two_databases(compose: Any) -> None:
    script = (DOCKER / "postgres/create-databases.sh").read_text()
    made = dict(re.findall(r"^create (\w+) (\w+)$", script, re.MULTILINE))
    assert made == {"label_studio": "LABEL_STUDIO_DB_PASSWORD", "ram_backend": "BACKEND_DB_PASSWORD"}
    assert set(made.values()) <= compose.services["postgres"]["environment"].keys()
    studio = compose.services["label-studio"]["environment"]
    assert (studio["POSTGRE_NAME"], studio["POSTGRE_USER"]) == ("label_studio", "label_studio")
