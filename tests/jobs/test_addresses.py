"""Addresses of MLflow that are wrong at once, not after waiting for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.delivery import Refused
from actors.mlflow_store import MlflowException, MlflowStore
from ductile.checks.written import address_mistakes, tracking_mistakes
from ductile.config import RunSettings, TrackingSettings


@pytest.mark.parametrize(
    "address",
    [
        "http://h:5000",
        "https://h",
        "sqlite:////out/mlflow.db",
        "postgresql+psycopg2://db/x",
        "mysql+pymysql://db/x",
        "mssql+pyodbc://db/x",
        "databricks",
        "databricks://profile",
    ],
)
def test_addresses_that_mlflow_knows_are_taken(address: str) -> None:
    assert list(address_mistakes(address)) == []


@pytest.mark.parametrize("address", ["ftp://h", "/out/mlruns", "mlruns", "htp://h", "host:5000", "https+x://h", ""])
def test_others_are_one_line(address: str) -> None:
    (line,) = address_mistakes(address)
    assert line.startswith(f"tracking.uri: {address!r} is no address of MLflow") and "sqlite://" in line


def test_address_of_the_environment_is_checked_too_and_its_password_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://me:planted-0011@h")
    (line,) = tracking_mistakes(RunSettings())
    assert "planted" not in line
    assert list(tracking_mistakes(RunSettings(tracking=TrackingSettings(uri="http://h")))) == []


def test_what_mlflow_refuses_as_it_is_reached_is_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(name: str) -> str:
        raise MlflowException.invalid_parameter_value(f"no name: {name}")

    store = MlflowStore(f"sqlite:///{tmp_path / 'mlflow.db'}", "x")
    monkeypatch.setattr(store, "_experiment_id", refuses)
    with pytest.raises(Refused):
        store.connect()
