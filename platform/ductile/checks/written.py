"""What a run writes down: names that become folders, and settings that must not hold a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ductile.config import RunSettings
from ductile.paths import name_mistake
from ductile.secrets import redacted, secret_settings
from ductile.settings import as_plain

ENVIRONMENT = {
    "tracking": "MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "checkpoint": "what its file system reads, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "variant": "OPENAI_API_KEY",
}
"""Where a secret belongs, by section."""

SERVERS = ("http", "https", "databricks")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of the addresses that MLflow keeps runs at."""

FOLDERS = ("output", "cache")


def written_name_mistakes(settings: RunSettings) -> Iterator[str]:
    """Names that would lead out of the folder that they name a part of, and folders that no system can make."""
    names = {"name": settings.name, "plan": settings.plan, "tracking.experiment": settings.tracking.experiment}
    if settings.variant.label:
        names["variant.label"] = settings.variant.label
    groups = {
        "phase": settings.phase,
        "probe.prior": settings.probe.prior,
        "probe.neutral": settings.probe.neutral,
        "probe.shift": settings.probe.shift,
        "data.prior": settings.data.prior,
        "model.mixture": settings.model.mixture,
    }
    named = [(f"{path}.{name}", name) for path, group in groups.items() for name in group]
    for path, name in [*names.items(), *named]:
        if mistake := name_mistake(name):
            yield f"{path}: {name!r}: it names files, so {mistake}; allowed: letters, digits, spaces and -_.,+=()"
    for path in FOLDERS:
        folder = getattr(settings, path)
        if not folder or not folder.isprintable():
            yield f"{path}: {folder!r} is no folder; allowed: a path of printable characters"


def tracking_mistakes(settings: RunSettings) -> Iterator[str]:
    """`tracking.uri`, or the address of the environment that stands for it."""
    if address := settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        yield from address_mistakes(address)


def address_mistakes(address: str) -> Iterator[str]:
    """An address that no MLflow is at, however long it is waited for."""
    scheme, separator, _ = address.partition("://")
    database = scheme.partition("+")[0] in DATABASES  # with a driver, as in mysql+pymysql
    if address != "databricks" and not (separator and (scheme in SERVERS or database)):
        allowed = ", ".join(f"{name}://" for name in (*SERVERS, *DATABASES))
        shown = redacted(address)
        yield f"tracking.uri: {shown!r} is no address of MLflow (MLFLOW_TRACKING_URI counts too); allowed: {allowed}"


def secret_mistakes(settings: RunSettings) -> Iterator[str]:
    """Settings that hold a name and password, a key, or a secret of this environment; what it is, is not said."""
    for path in secret_settings(as_plain(settings)):
        place = ENVIRONMENT.get(path.split(".")[0], "the environment")
        yield (
            f"{path}: it holds a password or a key, and settings are written into files and MLflow; allowed: the same "
            f"without it, and the secret in the environment of the job ({place})"
        )
