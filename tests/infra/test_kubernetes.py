"""The manifests: against the schemas of Kubernetes and KubeRay, and against the settings and pins of this project."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest

from jobs.configure import compare_settings, parse
from tests.infra.files import INFRA, documents, manifests, pins, schema, walk

KINDS = {**schema("kubernetes")["kinds"], **schema("operators")["kinds"]}
DEFINITIONS = {**schema("kubernetes")["$defs"], **schema("operators")["$defs"]}


def mistakes(manifest: dict[str, Any]) -> list[str]:
    """What the schema of its kind says against a manifest."""
    wanted = {"$ref": f"#/$defs/{KINDS[manifest['kind']]}", "$defs": DEFINITIONS}
    found = jsonschema.Draft202012Validator(wanted).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found]


def called(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata'].get('name', '')}"


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod template, with where it is."""
    return [
        (f"{called(manifest)}:{'.'.join(map(str, path))}", value)
        for manifest in manifests()
        for path, value in walk(manifest)
        if isinstance(value, dict) and "containers" in value
    ]


def one(kind: str, name: str = "") -> dict[str, Any]:
    [found] = [m for m in manifests(kind) if not name or m["metadata"].get("name") == name]
    return found


@pytest.mark.parametrize("manifest", manifests(), ids=called)
def test_every_manifest_is_what_its_kind_allows(manifest: dict[str, Any]):
    assert mistakes(manifest) == []


@pytest.mark.parametrize(
    ("kind", "path", "value", "complaint"),
    [
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "minReplica"), 0, "minReplica"),
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "is not of type 'string'"),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "container"), [], "container"),
        ("RayJob", ("spec", "submissionMode"), "K8sJob", "is not one of"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), "http", "integer"),
        ("NetworkPolicy", ("spec", "podSelector", "matchLabel"), {}, "matchLabel"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "intervall"), "15s", "intervall"),
    ],
)
def test_schemas_find_mistakes(kind: str, path: tuple[str | int, ...], value: Any, complaint: str):
    manifest = copy.deepcopy(manifests(kind)[0])
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(complaint in mistake for mistake in mistakes(manifest))


def test_everything_is_in_one_namespace_and_in_kustomization_but_for_the_job():
    [kustomization] = documents(INFRA / "kubernetes" / "kustomization.yaml")
    names = {path.name for path in (INFRA / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == names - {"kustomization.yaml", "rayjob.yaml"}
    spaces = {m["metadata"].get("namespace") for m in manifests() if m["kind"] != "Namespace"}
    assert spaces == {one("Namespace")["metadata"]["name"]} == {"ductile"}


@pytest.mark.parametrize(("where", "pod"), pods(), ids=[where for where, _ in pods()])
def test_pods_do_not_run_as_root_and_have_limits(where: str, pod: dict[str, Any]):
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
    head = "headGroupSpec" in where  # the autoscaler in the head's pod speaks to Kubernetes
    assert pod.get("automountServiceAccountToken") is (None if head else False)


@pytest.mark.parametrize(("where", "pod"), pods(), ids=[where for where, _ in pods()])
def test_mounted_volumes_and_referred_claims_exist(where: str, pod: dict[str, Any]):
    manifest = next(m for m in manifests() if where.startswith(f"{called(m)}:"))
    claimed = [t["metadata"]["name"] for t in manifest["spec"].get("volumeClaimTemplates", [])]
    volumes = [volume["name"] for volume in pod.get("volumes", [])] + claimed
    mounts = [m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])]
    assert set(mounts) == set(volumes)
    claims = {m["metadata"]["name"] for m in manifests("PersistentVolumeClaim")}
    asked = {v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "persistentVolumeClaim" in v}
    assert asked <= claims


def test_ray_is_of_the_pinned_version_with_token_authentication_and_grows_by_rollout_nodes():
    spec = one("RayCluster")["spec"]
    assert spec["rayVersion"] == pins()["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups["rollout"]["minReplicas"] == 0 < groups["rollout"]["maxReplicas"]
    assert groups["learner"]["minReplicas"] == groups["learner"]["maxReplicas"]
    names = [c["name"] for g in groups.values() for c in g["template"]["spec"]["containers"]]
    assert names == ["ray-worker", "ray-worker"]


def test_the_jobs_cluster_is_the_cluster():
    assert one("RayJob")["spec"]["rayClusterSpec"] == one("RayCluster")["spec"]


def test_the_jobs_command_is_one_that_the_job_takes_and_places_roles_on_labels_that_there_are():
    job = one("RayJob")["spec"]
    words = job["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.compare"]
    _, cells = compare_settings(parse(words[3:]))
    placement = cells[0].cluster.placement
    labels = {
        f"{key}:{value}"
        for group in job["rayClusterSpec"]["workerGroupSpecs"]
        for key, value in group["labels"].items()
    }
    assert {placement.rollout.nodes, placement.learner.nodes, placement.difficulty.nodes} <= labels
    assert placement.rollout.nodes == "role:rollout"
    assert cells[0].rollout.actors_max == next(
        group["maxReplicas"] for group in job["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "rollout"
    )
    assert job["shutdownAfterJobFinishes"] is True
    mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    shared = [mount["mountPath"] for mount in mounts if mount["name"] == "data"]
    assert cells[0].output.startswith(f"{shared[0]}/") and cells[0].cache.startswith(f"{shared[0]}/")


def test_a_pod_that_is_told_to_end_has_longer_than_the_job_takes_to_stop():
    for _, pod in pods():
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if variable["name"] == "RAY_JOB_STOP_WAIT_TIME_S":
                    assert pod["terminationGracePeriodSeconds"] > int(variable["value"])


def test_services_reach_ports_that_their_pods_have():
    ports = {}
    for kind in ("Deployment", "StatefulSet"):
        for manifest in manifests(kind):
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            ports[manifest["metadata"]["name"]] = {port["name"]: port["containerPort"] for port in container["ports"]}
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in manifests("Service"):
        for port in service["spec"]["ports"]:
            assert ports[service["metadata"]["name"]][port["targetPort"]] == port["port"]
    tracking = {
        v["value"] for _, v in walk(manifests()) if isinstance(v, dict) and v.get("name") == "MLFLOW_TRACKING_URI"
    }
    assert tracking == {f"http://mlflow:{ports['mlflow']['http']}"}


def test_network_policies_select_pods_that_there_are():
    """Labels of ours in the policies are on pods of ours; KubeRay, its operator and Prometheus set the rest."""
    labels = {
        (key, value)
        for _, template in walk(manifests())
        if isinstance(template, dict) and "spec" in template and "metadata" in template
        for key, value in template["metadata"].get("labels", {}).items()
    }
    theirs = {("app.kubernetes.io/name", "kuberay-operator"), ("app.kubernetes.io/name", "prometheus")}
    asked = set()
    for _, value in walk([policy["spec"] for policy in manifests("NetworkPolicy")]):
        if isinstance(value, dict):
            asked |= set(value.get("matchLabels", {}).items())
            for expression in value.get("matchExpressions", []):
                if expression["key"] != "ray.io/node-type":
                    asked |= {(expression["key"], name) for name in expression["values"]}
    assert asked - theirs <= labels
    assert one("NetworkPolicy", "nothing-comes-in")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_scraped_ports_are_the_heads():
    ports = one("RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    scraped = [endpoint["port"] for endpoint in one("PodMonitor")["spec"]["podMetricsEndpoints"]]
    assert set(scraped) <= {port["name"] for port in ports}


def test_secrets_are_named_in_the_readme_with_every_key():
    references = [v["secretKeyRef"] for _, v in walk(manifests()) if isinstance(v, dict) and "secretKeyRef" in v]
    readme = (INFRA / "README.md").read_text()
    assert references
    for reference in references:
        assert f"create secret generic {reference['name']}" in readme
        assert f"--from-literal={reference['key']}=" in readme
    assert manifests("Secret") == []


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_every_resource():
    built = subprocess.run(
        ["kubectl", "kustomize", str(INFRA / "kubernetes")], check=True, capture_output=True, text=True
    ).stdout
    assert len(re.findall(r"^kind: ", built, re.MULTILINE)) == len([m for m in manifests() if m["kind"] != "RayJob"])
