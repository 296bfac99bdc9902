"""The manifests for Kubernetes."""

import copy
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml

from service.__main__ import MOST_WORKERS
from service.api.app import create_app
from service.cli import unknown_variables
from service.models.model import BatchLimits
from service.observability import metrics
from service.runtime.providers import Provider
from service.server import liveness
from service.server.supervisor import SLACK
from service.settings import Settings
from tests.deployment.files import DOCKER, read_yaml, services

FOLDER = DOCKER / "kubernetes"
KUSTOMIZATION = read_yaml(FOLDER / "gpu" / "kustomization.yaml")
MANIFESTS = {name: read_yaml(FOLDER / "gpu" / name) for name in KUSTOMIZATION["resources"]}
OVERLAY = read_yaml(FOLDER / "cpu" / "kustomization.yaml")
OLDEST, LATEST = "1.31", kubernetes_validate.latest_version()


def patched(manifest: Any, patch: str) -> Any:
    """A manifest with a JSON patch (RFC 6902) upon it; what is replaced or removed must be there."""
    done = copy.deepcopy(manifest)
    for change in yaml.safe_load(patch):
        *above, last = [part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]]
        place = done
        for part in above:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if change["op"] != "add":
            del place[last]
        if change["op"] != "remove":
            place[last] = change["value"]
    return done


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi")) * 2**30


DEPLOYMENT = MANIFESTS["deployment.yaml"]
AUTOSCALER = MANIFESTS["autoscaler.yaml"]
PATCHES = {each["target"]["kind"]: each["patch"] for each in OVERLAY["patches"]}
WITHOUT_GPU = patched(DEPLOYMENT, PATCHES["Deployment"])
AUTOSCALER_WITHOUT_GPU = patched(AUTOSCALER, PATCHES["HorizontalPodAutoscaler"])


def container(deployment: Any) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", [OLDEST, LATEST])
@pytest.mark.parametrize(
    "manifest",
    [*MANIFESTS.values(), WITHOUT_GPU, AUTOSCALER_WITHOUT_GPU],
    ids=lambda manifest: manifest["kind"],
)
def test_they_are_what_kubernetes_takes(manifest: Any, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_every_manifest_is_applied() -> None:
    there = {path.name for path in (FOLDER / "gpu").glob("*.yaml")}
    assert set(KUSTOMIZATION["resources"]) == there - {"kustomization.yaml"}
    assert OVERLAY["resources"] == ["../gpu"]


def test_the_images_are_those_of_the_compose_file() -> None:
    assert container(DEPLOYMENT)["image"] == KUSTOMIZATION["images"][0]["name"] == "tessera"
    for name, images in (("service", KUSTOMIZATION["images"]), ("cpu", OVERLAY["images"])):
        assert services()[name]["image"] == f"tessera:{images[0]['newTag']}"


def test_one_has_a_gpu_to_itself_and_the_other_none() -> None:
    def provider(deployment: Any) -> Any:
        return {each["name"]: each["value"] for each in container(deployment)["env"]}["TESSERA_PROVIDER"]

    assert container(DEPLOYMENT)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert provider(DEPLOYMENT) == "cuda"
    assert container(WITHOUT_GPU)["resources"]["limits"].keys() == {"cpu", "memory"}
    assert provider(WITHOUT_GPU) == "cpu"


def test_a_pod_may_do_little() -> None:
    pod, inside = DEPLOYMENT["spec"]["template"]["spec"], container(DEPLOYMENT)["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {each["mountPath"]: each for each in container(DEPLOYMENT)["volumeMounts"]}
    assert mounts.keys() == {"/exported", "/tmp"}  # noqa: S108 - of the container
    assert mounts["/exported"]["readOnly"] is True


def test_what_kubernetes_says_of_services_is_not_taken_for_settings() -> None:
    # It would set TESSERA_PORT=tcp://... for a service of this name.
    assert MANIFESTS["service.yaml"]["metadata"]["name"] == "tessera"
    assert DEPLOYMENT["spec"]["template"]["spec"]["enableServiceLinks"] is False
    given = {each["name"]: "" for each in container(DEPLOYMENT)["env"]}
    assert not unknown_variables(given)


@pytest.mark.slow
def test_probes_ask_what_is_answered_and_wait_long_enough() -> None:
    paths = create_app(Settings(provider="cpu")).fastapi.openapi()["paths"]
    asked = {name: container(DEPLOYMENT)[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert all("get" in paths[probe["httpGet"]["path"]] for probe in asked.values())
    assert asked["readiness"]["httpGet"]["path"] == "/readyz"
    assert asked["liveness"]["httpGet"]["path"] == asked["startup"]["httpGet"]["path"] == "/livez"
    assert asked["liveness"]["timeoutSeconds"] > liveness.PATIENCE
    port, metrics_port = container(DEPLOYMENT)["ports"]
    given = {each["name"]: each["value"] for each in container(DEPLOYMENT)["env"]}
    annotated = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert int(annotated) == int(given["TESSERA_METRICS"]) == metrics_port["containerPort"]
    assert [each["targetPort"] for each in MANIFESTS["service.yaml"]["spec"]["ports"]] == [port["name"]]
    assert port["containerPort"] == Settings.model_fields["port"].default
    assert {probe["httpGet"]["port"] for probe in asked.values()} == {port["name"]}


def test_no_call_is_lost_when_pods_are_replaced() -> None:
    spec = DEPLOYMENT["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pause = int(container(DEPLOYMENT)["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = Settings.model_fields["drain_seconds"].default
    whole = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert whole > pause + drain + SLACK


def test_they_mean_the_same_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["service.yaml"]["spec"]["selector"] == labels
    assert MANIFESTS["disruption.yaml"]["spec"]["selector"]["matchLabels"] == labels
    (volume,) = [
        each for each in DEPLOYMENT["spec"]["template"]["spec"]["volumes"] if each["name"] == "models"
    ]
    claim = MANIFESTS["models.yaml"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}


@pytest.mark.parametrize(("autoscaler", "name"), [(AUTOSCALER, "cuda"), (AUTOSCALER_WITHOUT_GPU, "cpu")])
def test_the_autoscaler_goes_by_the_rows_that_wait(autoscaler: Any, name: Literal["cpu", "cuda"]) -> None:
    spec = autoscaler["spec"]
    assert spec["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    (metric,) = spec["metrics"]
    assert metric["pods"]["metric"]["name"] == metrics.WAITING_ROWS[0]
    # More than one request counts for, however large it is.
    batch = BatchLimits.on(Provider(name, "", 1)).rows
    assert int(metric["pods"]["target"]["averageValue"]) == batch
    # It says how many there are, and would be contradicted by each update.
    assert "replicas" not in DEPLOYMENT["spec"]


@pytest.mark.parametrize(
    ("deployment", "workers"),
    [(DEPLOYMENT, 1), (WITHOUT_GPU, int(container(WITHOUT_GPU)["resources"]["limits"]["cpu"]))],
)
def test_there_is_memory_for_all_that_may_be_in_flight_and_wait(deployment: Any, workers: int) -> None:
    assert workers <= MOST_WORKERS
    settings = Settings(provider="cpu")
    # Three queues, for samplers, large images and the rest; each holds as many bytes of results again.
    # The memory of the processes is from docs/operations/batching.md.
    supervisor, loaded = 100 * 2**20, 230 * 2**20
    filled = supervisor + workers * (loaded + settings.max_inflight_bytes + 6 * settings.max_queued_bytes)
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    written = gibibytes(volumes["tmp"]["emptyDir"]["sizeLimit"])
    assert filled + written < gibibytes(container(deployment)["resources"]["limits"]["memory"])
