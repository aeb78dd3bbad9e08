"""What counts as a secret, and that settings hold none."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.checks.written import secret_mistakes
from ductile.config import RunSettings
from ductile.secrets import RedactingFormatter, redacted, without_login
from ductile.settings import as_plain, build

SECRET = "h0rse-battery"
ADDRESSES = [
    f"http://me:{SECRET}@tracking:5000",
    f"https://{SECRET}@tracking/x",
    f"postgresql://me:{SECRET}@db:5432/mlflow?x=1",
    f"postgresql+psycopg2://me:{SECRET}/with/slash@db/mlflow",
    f"s3://AKIAKEY:{SECRET}@bucket/runs?region=eu",
    f"s3://bucket/runs?access_key=AKIAKEY&secret_key={SECRET}",
    f"https://host/v1?api-key={SECRET}",
    f"abfs://c@account/x?sv=1&sig={SECRET}%3D",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_lose_their_secrets_and_are_refused_in_settings(address: str) -> None:
    assert SECRET not in redacted(f"HTTPError: cannot reach {address!r}, giving up", {})
    settings = build(RunSettings, {"tracking": {"uri": address}})
    (line,) = secret_mistakes(settings)
    assert line.startswith("tracking.uri: ") and "MLFLOW_TRACKING_URI" in line
    assert SECRET not in line


@pytest.mark.parametrize("path", ["checkpoint.store", "variant.reflector_url", "phase.hard.domain.path", "name"])
def test_secret_in_any_setting_is_refused_without_being_told(path: str) -> None:
    values: dict[str, object] = {}
    inner = values
    *parents, last = path.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})  # type: ignore[assignment]
    inner[last] = f"https://me:{SECRET}@host/x"
    (line,) = secret_mistakes(build(RunSettings, values))
    assert line.startswith(f"{path}: ") and SECRET not in line


def test_secret_of_the_environment_is_found_in_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (line,) = secret_mistakes(build(RunSettings, {"output": f"runs/{SECRET}"}))
    assert line.startswith("output: ") and SECRET not in line


@pytest.mark.parametrize(
    "address",
    ["http://tracking:5000", "sqlite:////tmp/runs/mlflow.db", "s3://bucket/runs?region=eu", "hdfs://node:8020/x", ""],
)
def test_addresses_without_secrets_stay_as_they_are(address: str) -> None:
    assert redacted(f"see {address} or mail me@host", {}) == f"see {address} or mail me@host"
    assert not list(secret_mistakes(build(RunSettings, {"tracking": {"uri": address}})))


def test_the_defaults_hold_no_secret() -> None:
    assert not list(secret_mistakes(RunSettings()))
    assert redacted(str(as_plain(RunSettings())), {}) == str(as_plain(RunSettings()))


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("OPENAI_API_KEY", SECRET, True),
        ("MLFLOW_TRACKING_PASSWORD", SECRET, True),
        ("MLFLOW_TRACKING_TOKEN", SECRET, True),
        ("AWS_SESSION_TOKEN", SECRET, True),
        ("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host", True),
        ("RAY_AUTH_TOKEN_PATH", SECRET, False),
        ("TOKENIZERS_PARALLELISM", SECRET, False),
        ("RAY_AUTH_MODE", SECRET, False),
        ("HOME", SECRET, False),
        ("MY_TOKEN", "true", False),
    ],
)
def test_environment_variables_are_secret_by_their_names(name: str, value: str, secret: bool) -> None:
    assert (SECRET not in redacted(f"it says {SECRET}; true", {name: value})) == secret
    assert "true" in redacted(f"it says {SECRET}; true", {name: value})


@given(st.text(max_size=60))
def test_taking_secrets_out_twice_changes_nothing_more(text: str) -> None:
    once = redacted(f"x://{text}", {})
    assert redacted(once, {}) == once


@pytest.mark.parametrize("piece", ["://", "://a:", "?key=", "a", "@", "://a:b@", "?", "&x", "://" + "a" * 300])
def test_long_texts_take_linear_time(piece: str) -> None:
    begun = time.process_time()
    redacted(piece * (200_000 // len(piece)), {})
    assert time.process_time() - begun < 2


def test_log_lines_and_their_tracebacks_lose_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    try:
        raise OSError(f"http://me:{SECRET}@host")
    except OSError:
        record = logging.LogRecord("x", 20, "x", 1, "told %s", (SECRET,), sys.exc_info())
    line = RedactingFormatter("%(message)s").format(record)
    assert "told ***" in line and "Traceback" in line and SECRET not in line


def test_login_is_split_off_web_addresses_alone() -> None:
    assert without_login("http://a%40b:c%3Ad@h/x") == ("http://h/x", "a@b", "c:d")
    for address in ("http://h/x", "sqlite:///a@b.db", "postgresql://a:b@h/x"):
        assert without_login(address) == (address, None, None)
