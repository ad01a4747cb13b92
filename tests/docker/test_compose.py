"""The compose file: valid, complete, without default passwords, and as closed as it says."""

import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from ram_backend.settings import Settings, load_settings

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
SECRETS = {
    "POSTGRES_PASSWORD", "LABEL_STUDIO_DB_PASSWORD", "BACKEND_DB_PASSWORD", "VALKEY_PASSWORD", "LABEL_STUDIO_PASSWORD",
    "LABEL_STUDIO_API_KEY", "RAM_BASIC_AUTH_PASS", "RAM_WEBHOOK_SECRET",
}  # fmt: skip
NOT_PASSED_ON = {"RAM_HOST", "RAM_PORT", "RAM_WORKER"}
"""Settings that the image and the compose file decide themselves."""


def settings_variables() -> set[str]:
    """The environment variable of each setting; where there are several, the shortest."""
    return {
        min(map(str, field.validation_alias.choices), key=lambda each: (not each.startswith("LABEL"), each != name))
        if isinstance(field.validation_alias, AliasChoices)
        else name
        for name, field in ((f"RAM_{key.upper()}", field) for key, field in Settings.model_fields.items())
    }


def test_it_follows_the_specification() -> None:
    """The schema of the compose specification, which check-jsonschema has."""
    files = [DOCKER / name for name in ("compose.yaml", "compose.gpu.yaml")]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_every_setting_is_passed_on_to_server_and_worker(compose: Any) -> None:
    passed = compose.services["backend"]["environment"].keys()
    assert passed - {"HF_ENDPOINT", "HF_TOKEN"} == settings_variables() - NOT_PASSED_ON
    assert compose.services["worker"]["environment"] == compose.services["backend"]["environment"]


def test_the_example_names_every_variable(compose: Any) -> None:
    text = compose.text + (DOCKER / "compose.gpu.yaml").read_text()
    passed_on = {key for key, value in compose.services["backend"]["environment"].items() if value is None}
    example = set(re.findall(r"^#?([A-Z_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert example - {"COMPOSE_PROFILES", "COMPOSE_FILE"} == passed_on | set(re.findall(r"\$\{(\w+)", text))


def test_the_example_s_values_are_the_defaults(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes a `#` away changes nothing yet, and no value is one that the program refuses."""
    example = re.findall(r"^#?(RAM_[A-Z_]+)=(.+)$", (DOCKER / ".env.example").read_text(), re.MULTILINE)
    for name, value in example:
        monkeypatch.setenv(name, value)
    given = load_settings()
    differ = {name for name in Settings.model_fields if getattr(given, name) != Settings.model_fields[name].default}
    own = {"threads", "clip_weights", "allowed_image_hosts", "allowed_hosts", "basic_auth_user", "data_dir"}
    assert differ == own


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_without_a_secret_it_says_what_to_do(compose: Any, variables: dict[str, str], name: str) -> None:
    assert re.fullmatch("[0-9a-f]{40}", variables[name])
    with pytest.raises(KeyError, match=rf"{name}: set it in docker/\.env"):
        compose.replaced(variables | {name: ""})


def test_no_secret_has_a_default(compose: Any) -> None:
    assert set(re.findall(r"\$\{(\w+):\?", compose.text)) >= SECRETS
    defaults = set(re.findall(r"\$\{(\w+):-", compose.text))
    assert not any(re.search("PASS|SECRET|TOKEN|KEY", name) for name in defaults)
    for service in compose.services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY|USER_TOKEN", name) and value is not None:
                assert str(value).startswith("${"), name


def test_a_port_is_changed_in_one_place(compose: Any, variables: dict[str, str]) -> None:
    studio = compose.replaced(variables | {"LABEL_STUDIO_PORT": "8081"})["services"]["label-studio"]
    assert studio["ports"] == ["127.0.0.1:8081:8080"]
    names = [studio["environment"][name] for name in ("LABEL_STUDIO_HOST", "CSRF_TRUSTED_ORIGINS")]
    assert names == ["http://localhost:8081"] * 2
    behind = compose.replaced(variables | {"LABEL_STUDIO_HOST": "https://ls.example.com"})["services"]["label-studio"]
    assert behind["environment"]["CSRF_TRUSTED_ORIGINS"] == "https://ls.example.com"


def test_every_service_is_pinned_and_has_limits(compose: Any, variables: dict[str, str]) -> None:
    for name, service in compose.replaced(variables)["services"].items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        exact = r"ram-backend:cpu|[a-z0-9./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?"
        assert re.fullmatch(exact, service["image"])
        if name in {"backend", "worker"}:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    makefile = (DOCKER.parent / "Makefile").read_text()
    version = re.search(r"^STUDIO_VERSION := (.*)$", makefile, re.MULTILINE)
    assert version is not None
    assert compose.services["label-studio"]["image"].startswith(f"heartexlabs/label-studio:{version[1]}")


def test_what_it_names_is_there(compose: Any) -> None:
    overlay = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert overlay.keys() <= compose.services.keys()
    for service in [*compose.services.values(), *overlay.values()]:
        assert set(service.get("depends_on", {})) <= compose.services.keys()
        assert set(service.get("networks", {})) <= compose.content["networks"].keys()
        assert set(service.get("secrets", [])) <= compose.content["secrets"].keys()
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DOCKER / source).is_dir() if source.startswith(".") else source in compose.content["volumes"]
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_who_reaches_whom(compose: Any, variables: dict[str, str]) -> None:
    services = compose.replaced(variables)["services"]
    ports = {port for service in services.values() for port in service.get("ports", [])}
    assert ports == {"127.0.0.1:8080:8080", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"}
    studio = set(services["label-studio"]["networks"])
    near = {name for name, service in services.items() if set(service["networks"]) & studio}
    assert near == {"label-studio", "backend", "worker", "postgres"}
    assert services["valkey"]["networks"] == ["backend-data"]
    assert all(compose.content["networks"][name]["internal"] for name in ("studio-data", "backend-data"))


def test_label_studio_may_ask_the_backend_and_nothing_else_inside(compose: Any, variables: dict[str, str]) -> None:
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


def test_the_queue_keeps_its_jobs_and_the_worker_has_the_data_of_the_backend(compose: Any) -> None:
    command = compose.services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    worker = compose.services["worker"]
    assert worker["volumes"] == compose.services["backend"]["volumes"] == ["data:/data"]
    assert worker["healthcheck"]["test"][-1] == "worker"


def test_label_studio_can_make_a_webhook(compose: Any) -> None:
    """It checks a webhook's address with Django's URL validator, and skips the webhook where the host has no dot."""
    (alias,) = compose.services["backend"]["networks"]["front"]["aliases"]
    assert re.fullmatch(r"[a-z0-9-]+\.[a-z]{2,}", alias)
    assert f"http://{alias}:9090" in compose.text
    assert alias in compose.services["backend"]["environment"]["RAM_ALLOWED_HOSTS"]
