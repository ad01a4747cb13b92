"""The dashboard shows what the server says, and Prometheus asks where the server is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from ram_backend.server.prometheus import ROUTES, ServerMetrics

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
NAME = re.compile(r"\bram_[a-z_]+")
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana/dashboards/ram-backend.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


@pytest.fixture
def exposition() -> str:
    """What /metrics says when every metric has been counted, some with real values of their labels."""
    metrics = ServerMetrics()
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase) and each._labelnames:
            each.labels(*["any"] * len(each._labelnames))
    metrics.images.labels("tagged")
    metrics.tasks.labels("broken")
    metrics.token_lookups.labels("hit")
    return generate_latest(metrics.registry).decode()


def test_dashboard_and_server_have_the_same_metrics(exposition: str) -> None:
    said = {re.split(r"[ {]", line)[0] for line in exposition.splitlines() if not line.startswith("#")}
    variables = [each.get("definition", "") for each in DASHBOARD["templating"]["list"]]
    named = set(NAME.findall("\n".join([*EXPRESSIONS, *variables])))
    assert named
    assert named - said == set()
    families = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", exposition, re.MULTILINE))
    families = {each for each in families if not each.endswith("_created")}
    shown = set(NAME.findall("\n".join(EXPRESSIONS)))
    missing = [
        each for each in sorted(families) if shown.isdisjoint({each, f"{each}_bucket", f"{each}_sum", f"{each}_count"})
    ]
    assert missing == [], "add a panel to docker/grafana/dashboards/ram-backend.json"


def test_labels_and_their_values_are_the_server_s(exposition: str) -> None:
    text = "\n".join(EXPRESSIONS)
    own = set(re.findall(r"[{,](\w+)=\"", exposition)) | {"job", "instance"}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
    selected = set(re.findall(r"[{ ,](\w+)[!=]=?~?\"", text))
    assert grouped | selected <= own
    routes = {route for group in re.findall(r'route=~?"([^"]*)"', text) for route in group.split("|")}
    assert routes
    assert routes <= ROUTES
    outcomes = set(re.findall(r'outcome!?="([^"]*)"', text))
    assert outcomes <= set(re.findall(r'outcome="([^"]*)"', exposition))


def test_grafana_finds_dashboard_and_data(compose: Any) -> None:
    grafana = compose.services["grafana"]
    mounted = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/ram-backend.yaml").read_text())["providers"][0]
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/ram-backend.json"
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "monitoring" in compose.services["prometheus"]["networks"]
    assert DASHBOARD["templating"]["list"][0]["query"] == source["type"]


def test_prometheus_asks_the_backend_with_its_login(compose: Any) -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    paths = [job["basic_auth"][name] for name in ("username_file", "password_file")]
    secrets = compose.services["prometheus"]["secrets"]
    assert paths == [f"/run/secrets/{name}" for name in secrets]
    variables = [compose.content["secrets"][name]["environment"] for name in secrets]
    assert variables == ["RAM_BASIC_AUTH_USER", "RAM_BASIC_AUTH_PASS"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert set(compose.services[host]["networks"]) & set(compose.services["prometheus"]["networks"])
    assert port == compose.services[host]["ports"][0].rsplit(":", 1)[1]
