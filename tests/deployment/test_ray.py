"""What Ray gets: the configuration of Serve, and the manifest for KubeRay."""

import copy
from importlib.metadata import version
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.cli import unknown_variables
from tests.deployment.files import DOCKER, read_yaml

schema = pytest.importorskip("ray.serve.schema")
pytestmark = pytest.mark.slow

FOLDER = DOCKER / "kubernetes"
SERVE = read_yaml(FOLDER / "ray" / "serve.yaml")
MANIFEST = read_yaml(FOLDER / "ray" / "rayservice.yaml")
CLUSTER = MANIFEST["spec"]["rayClusterConfig"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS = [CLUSTER["headGroupSpec"]["template"]["spec"], WORKERS["template"]["spec"]]


def test_serve_takes_the_configuration() -> None:
    from service import cluster

    parsed = schema.ServeDeploySchema.model_validate(SERVE)
    assert parsed.http_options.host == "127.0.0.1"
    (application,) = parsed.applications
    assert application.import_path == f"{cluster.__name__}:{cluster.app.__name__}"
    assert [deployment.name for deployment in application.deployments] == [cluster.NAME]


def test_kuberay_gets_the_same_for_every_address_and_with_gpus() -> None:
    ours = copy.deepcopy(SERVE)
    ours["http_options"]["host"] = "0.0.0.0"  # noqa: S104 - of a pod
    ours["applications"][0]["deployments"][0]["ray_actor_options"]["num_gpus"] = 1
    assert yaml.safe_load(MANIFEST["spec"]["serveConfigV2"]) == ours
    assert CLUSTER["rayVersion"] == version("ray")


@pytest.mark.parametrize("pod", PODS, ids=["head", "worker"])
def test_kubernetes_takes_the_pods(pod: dict[str, Any]) -> None:
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tessera"}, "spec": pod}
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    assert not unknown_variables({each["name"]: "" for each in container["env"]})


def test_there_is_a_gpu_for_each_replica_and_a_claim_with_the_models() -> None:
    (deployment,) = SERVE["applications"][0]["deployments"]
    assert WORKERS["maxReplicas"] == deployment["autoscaling_config"]["max_replicas"]
    assert PODS[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    claim = read_yaml(FOLDER / "gpu" / "models.yaml")["metadata"]["name"]
    assert PODS[1]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
