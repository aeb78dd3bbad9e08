"""MLflow's server: the compose file by the Compose Specification, flags that the pinned MLflow has, the bucket."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click import Command
from mlflow.cli import server

from tests.infra.files import COMPOSE, INFRA, documents, manifests, pins, schema

[COMPOSED] = documents(COMPOSE)
SERVICES = COMPOSED["services"]


def flags_of_manifest() -> list[str]:
    [deployment] = manifests("Deployment")
    return deployment["spec"]["template"]["spec"]["containers"][0]["args"]


FLAGS = {"compose": SERVICES["mlflow"]["command"], "kubernetes": flags_of_manifest()}


def test_compose_is_what_the_specification_allows():
    jsonschema.validate(COMPOSED, schema("compose"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**COMPOSED, "services": {"mlflow": {"port": ["5000"]}}}, schema("compose"))


def test_only_this_machine_reaches_it():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5000:5000"]
    inside = [name for name, service in SERVICES.items() if service["networks"] == ["stores"]]
    assert inside == ["postgres", "minio", "bucket"]
    assert COMPOSED["networks"]["stores"]["internal"] is True


def test_what_keeps_data_has_a_volume_and_what_is_waited_for_says_how_it_is():
    for name in ("postgres", "minio"):
        assert [v.split(":")[0] for v in SERVICES[name]["volumes"]] == [name]
        assert name in COMPOSED["volumes"]
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for service in SERVICES.values():
        for name, on in service.get("depends_on", {}).items():
            assert on["condition"] == "service_completed_successfully" or "healthcheck" in SERVICES[name]


def test_passwords_come_from_the_environment_or_the_file_is_refused():
    text = COMPOSE.read_text()
    variables = set(re.findall(r"\$\{(\w+):\?", text))
    assert variables == {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert all(f"\n{name}=\n" in f"\n{(INFRA / 'mlflow' / '.env.example').read_text()}" for name in variables)


@pytest.mark.parametrize("where", FLAGS)
def test_the_pinned_mlflow_has_every_flag_and_only_named_hosts_are_answered(where: str):
    assert isinstance(server, Command)
    with server.make_context("server", list(FLAGS[where])) as context:
        hosts = context.params["allowed_hosts"].split(",")
        assert context.params["serve_artifacts"] is True
        assert "*" not in hosts and "localhost" in hosts
        assert "*" not in context.params["cors_allowed_origins"]
        assert context.params["disable_security_middleware"] is False


@pytest.mark.parametrize("where", FLAGS)
def test_addresses_name_the_driver_that_is_installed_and_are_not_in_the_command(where: str):
    """SQLAlchemy 2.1 takes psycopg 3 for a bare postgresql://."""
    text = COMPOSE.read_text() if where == "compose" else (INFRA / "kubernetes" / "mlflow.yaml").read_text()
    assert "postgresql+psycopg2://mlflow:$" in text and "postgresql://" not in text
    assert not [flag for flag in FLAGS[where] if "store-uri" in flag or "PASSWORD" in flag]
    environment = {option.envvar for option in server.params}
    assert {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"} <= environment
    wanted = (INFRA / "mlflow" / "requirements.txt").read_text()
    assert re.search(r"^psycopg2-binary==", wanted, re.MULTILINE) and re.search(r"^boto3==", wanted, re.MULTILINE)


def test_the_image_is_made_of_the_pinned_mlflow():
    text = (INFRA / "mlflow" / "Dockerfile").read_text()
    assert re.findall(r" mlflow==(\S+)", text) == [pins()["mlflow"]]
    assert "-c constraints.txt" in text
    added = dict(
        line.split("==") for line in (INFRA / "mlflow/requirements.txt").read_text().splitlines() if "==" in line
    )
    assert {
        name: (version, pins()[name]) for name, version in added.items() if pins().get(name, version) != version
    } == {}


class Refused(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


def make_bucket(monkeypatch: pytest.MonkeyPatch, answer: str, address: str = "s3://ductile/mlflow") -> list[str]:
    """Run make_bucket.py against a store that answers so to the question for the bucket; what it made."""
    made: list[str] = []

    class Store:
        def head_bucket(self, Bucket: str) -> None:  # noqa: N803 (boto3's own name)
            if answer:
                raise Refused(answer)

        def create_bucket(self, Bucket: str) -> None:  # noqa: N803
            made.append(Bucket)

    boto3: Any = types.ModuleType("boto3")
    boto3.client = lambda name, endpoint_url: Store()
    exceptions: Any = types.ModuleType("botocore.exceptions")
    exceptions.ClientError = Refused
    monkeypatch.setitem(sys.modules, "boto3", boto3)
    monkeypatch.setitem(sys.modules, "botocore", types.ModuleType("botocore"))
    monkeypatch.setitem(sys.modules, "botocore.exceptions", exceptions)
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", address)
    code = compile(Path(INFRA / "mlflow" / "make_bucket.py").read_text(), "make_bucket.py", "exec")
    exec(code, {"__name__": "__main__"})
    return made


def test_a_bucket_is_made_where_there_is_none_and_only_there(monkeypatch: pytest.MonkeyPatch):
    assert make_bucket(monkeypatch, "404") == ["ductile"]
    assert make_bucket(monkeypatch, "") == []
    with pytest.raises(Refused, match="403"):
        make_bucket(monkeypatch, "403")
    with pytest.raises(SystemExit, match="s3://bucket/prefix"):
        make_bucket(monkeypatch, "", "file:///tmp")
