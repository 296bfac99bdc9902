"""The dashboard and the alerts query metrics that the service exports."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import errors
from service.api.app import create_app
from service.observability import metrics
from service.settings import Settings
from tests.deployment.files import DOCKER, read_yaml, services
from tests.fixtures import toy_models
from tests.unit.service.conftest import make_client

PROMETHEUS = DOCKER / "monitoring" / "prometheus"
GRAFANA = DOCKER / "monitoring" / "grafana"
CONFIG = read_yaml(PROMETHEUS / "prometheus.yml")
RULES = [rule for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
BOARD = json.loads((GRAFANA / "dashboards" / "tessera.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
# What Prometheus adds to each series.
ITS_OWN = {"instance", "job"}

Labels = dict[str, set[str]]


def filled(expression: str) -> str:
    """An expression of the dashboard, with values for its variables."""
    return re.sub(r"\$(instance|model)\b", ".*", expression.replace("$__rate_interval", "5m"))


def expressions() -> Iterator[tuple[str, str]]:
    """Where each stands, and what it is."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], filled(target["expr"])


EXPRESSIONS = list(expressions())
WITH_PLACES = pytest.mark.parametrize(
    ("place", "expression"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS]
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """The labels of each series that a service exports after a call; and ``up``, which Prometheus adds."""
    folder = tmp_path_factory.mktemp("models")
    toy_models.write_levels(folder)
    with make_client(folder) as client:
        assert client.post("/decode", json={"codes": [[1]]}).status_code == 200
        assert client.get("/models/nobody").status_code == 404
        text = client.get("/metrics").text
    found: Labels = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # They need a GPU: what they are is in tests of the service on a stand-in for one.
    return found | {name: {"gpu", "worker"} for name, _ in metrics.OF_GPU}


class Uses:
    """What an expression uses: series, labels by which it groups, and conditions on labels."""

    def __init__(self, expression: str) -> None:
        self.names: set[str] = set()
        self.grouping: set[str] = set()
        self.conditions: list[tuple[str, str, str]] = []
        promql_parser.walk(promql_parser.parse(expression), self._visit)

    def _visit(self, part: promql_parser.Expr) -> bool:
        if isinstance(part, promql_parser.VectorSelector):
            assert part.name is not None
            self.names.add(part.name)
            self.conditions += [(part.name, each.name, each.value) for each in part.matchers.matchers]
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            self.grouping.update(part.modifier.labels)
        return True


@WITH_PLACES
def test_series_and_labels_are_exported(exported: Labels, place: str, expression: str) -> None:
    uses = Uses(expression)
    assert uses.names
    assert uses.names <= exported.keys(), place
    labels = set().union(*(exported[name] for name in uses.names)) | ITS_OWN
    assert uses.grouping <= labels, place
    for name, label, _ in uses.conditions:
        assert label in exported[name] | ITS_OWN, place


@pytest.mark.slow
def test_reasons_and_paths_that_are_named_exist() -> None:
    named = [condition for _, expression in EXPRESSIONS for condition in Uses(expression).conditions]
    kinds = {
        each.type()
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.Problem)
    }
    paths = set(create_app(Settings(provider="cpu")).fastapi.openapi()["paths"])
    for _, label, value in named:
        if label == "type":
            pattern = re.fullmatch(r"urn:tessera:\((.*)\)", value)
            assert pattern is not None
            assert {f"urn:tessera:{kind}" for kind in pattern[1].split("|")} <= kinds
        if label == "path":
            assert set(value.split("|")) <= paths
    assert {"type", "path", "status"} <= {label for _, label, _ in named}


def test_all_that_the_service_counts_and_times_is_shown() -> None:
    shown = set().union(*(Uses(expression).names for _, expression in EXPRESSIONS))
    pairs = [value for value in vars(metrics).values() if isinstance(value, tuple) and len(value) == 2]
    names = [name for name, _ in pairs if str(name).startswith("tessera_")]
    assert len(names) > 10
    assert [name for name in names if not any(f"{each}_".startswith(f"{name}_") for each in shown)] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_names_what_the_series_differ_by(exported: Labels, panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
    for target in panel["targets"]:
        uses = Uses(filled(target["expr"]))
        known = uses.grouping or set().union(*(exported[name] for name in uses.names)) | ITS_OWN
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known


def test_panels_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for first, second in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            first["x"] + first["w"] <= second["x"]
            or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"]
            or second["y"] + second["h"] <= first["y"]
        )
        assert apart
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_the_variables_of_the_dashboard_are_known_to_it() -> None:
    known = {variable["name"] for variable in BOARD["templating"]["list"]} | {"__rate_interval"}
    used = {
        name
        for panel in PANELS
        for target in panel["targets"]
        for name in re.findall(r"\$(\w+)", target["expr"])
    }
    assert used == known


def test_every_alert_says_how_bad_it_is_and_what_is_wrong() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert labels <= Uses(rule["expr"]).grouping | ITS_OWN


def test_prometheus_finds_the_service_and_its_rules() -> None:
    (job,) = CONFIG["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    served = services()["service"]
    (alias,) = served["networks"]["default"]["aliases"]
    assert target == f"{alias}:{served['environment']['TESSERA_METRICS']}"
    assert all((PROMETHEUS / name).is_file() for name in CONFIG["rule_files"])
    assert any(f'job="{job["job_name"]}"' in rule["expr"] for rule in RULES)


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    address = urlsplit(source["url"])
    assert address.hostname in services()
    assert services()[address.hostname]["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    assert source["uid"] == PANELS[0]["datasource"]["uid"]
    (provider,) = read_yaml(GRAFANA / "provisioning" / "dashboards" / "tessera.yml")["providers"]
    mounted = dict(reversed(volume.split(":")[:2]) for volume in services()["grafana"]["volumes"])
    assert Path(mounted[provider["options"]["path"]]) == Path("docker/monitoring/grafana/dashboards")
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/tessera.json"
