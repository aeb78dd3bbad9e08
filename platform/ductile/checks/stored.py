"""The place that checkpoints are copied to: whether there is one of that name, before any work."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings


def store_mistakes(settings: RunSettings) -> Iterator[str]:
    """`checkpoint.store`; a place that asks for more than a name (credentials) may still refuse to be written to."""
    store = settings.checkpoint.store
    if not store:
        return
    from ductile.remote import opened  # pyarrow's file systems take a while to import

    try:
        opened(store)
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        scheme = store.split("://")[0] + "://..." if "://" in store else repr(store)
        told = " ".join(str(error).replace(store, scheme).split())
        yield (
            f"checkpoint.store: {scheme}: {told}; allowed: a folder's path, or a URI of pyarrow's file systems "
            f"(file://, s3://, gs://, hdfs://)"
        )
