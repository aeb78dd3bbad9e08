"""The place that checkpoints are copied to: whether there can be one of that name, before any work."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings
from ductile.secrets import redacted


def store_mistakes(settings: RunSettings) -> Iterator[str]:
    """`checkpoint.store`; a place that is away, or asks for credentials, is no mistake: a run tries again."""
    store = settings.checkpoint.store
    if not store or redacted(store) != store:  # which `secret_mistakes` tells of
        return
    from ductile.remote import brief, refuse_wrong  # pyarrow's file systems take a while to import

    try:
        refuse_wrong(store)
    except ValueError as error:  # pyarrow's own are too
        scheme = store.split("://")[0] + "://..." if "://" in store else repr(store)
        yield (
            f"checkpoint.store: {scheme}: {brief(ValueError(str(error).replace(store, scheme)))}; allowed: a folder's "
            f"path, or a URI of pyarrow's file systems (file://, s3://, gs://, hdfs://)"
        )
