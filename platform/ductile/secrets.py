"""Keys and passwords: where settings hold one, and text without them, for what is logged or shown.

Settings go into files, MLflow and checkpoints whole, so none may hold a secret: they come from the environment
(MLFLOW_TRACKING_URI, AWS_ACCESS_KEY_ID, OPENAI_API_KEY), which is written nowhere. What other people's errors quote of
it is taken out of messages.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"

_USER = re.compile(r"(?<=://)[^\s@/\"'<>{}]{1,512}@|(?<=://)[^\s@/:\"'<>{}]{0,256}:[^\s@\"'<>{}]{1,512}@")
"""A name or password before the host of a URI. SQLAlchemy takes passwords with a slash; both parts are bounded, so that
no text takes more than linear time."""

_KEY = re.compile(
    r"([?&;][\w.-]{0,40}(?:key|secret|token|passw(?:or)?d|pwd|sig|signature|credentials?)=)[^\s&;#\"'<>]+",
    re.IGNORECASE,
)
"""A parameter of a URI's query that is a key."""

_NAMES = re.compile(r"SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY|TOKEN(?!IZ)", re.IGNORECASE)
_PLACES = re.compile(r"(PATH|FILE|DIR|URI|URL|MODE)$", re.IGNORECASE)
SHORTEST = 6
"""Characters of an environment variable's value that is taken for a secret: shorter ones are words like `true`."""


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without names and passwords in URIs, keys in their queries, and secrets of the environment.

    >>> redacted("cannot reach postgresql://me:open%20sesame@db/runs?sslpassword=x", {})
    'cannot reach postgresql://***@db/runs?sslpassword=***'
    """
    for secret in known_secrets(os.environ if environment is None else environment):
        text = text.replace(secret, HIDDEN)
    return _KEY.sub(rf"\g<1>{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def known_secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment's variables whose names say that they are secret, as given and as URIs quote them.

    Passwords inside addresses, as in MLFLOW_TRACKING_URI, are among them. The longest first: one may hold another.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if "://" in value:
            password = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
            found |= {password, unquote(password)}
        elif _NAMES.search(name) and not _PLACES.search(name):
            found |= {value, quote(value, safe="")}
    return sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)


def without_login(address: str) -> tuple[str, str | None, str | None]:
    """A web address without its name and password, and these; any other text as it is.

    >>> without_login("https://me:pass@tracking:5000/x")
    ('https://tracking:5000/x', 'me', 'pass')
    """
    scheme, separator, rest = address.partition("://")
    if scheme.lower() not in ("http", "https") or "@" not in rest:
        return address, None, None
    login, _, place = rest.rpartition("@")
    name, _, password = login.partition(":")
    return f"{scheme}{separator}{place}", unquote(name), unquote(password)


def secret_settings(values: Any, path: str = "", environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Paths of the plain settings that hold a secret; never the secret."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from secret_settings(value, f"{path}.{name}" if path else str(name), environment)
    elif isinstance(values, (list, tuple)):
        for number, value in enumerate(values):
            yield from secret_settings(value, f"{path}[{number}]", environment)
    elif isinstance(values, str) and redacted(values, environment) != values:
        yield path


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return redacted(super().format(record))
