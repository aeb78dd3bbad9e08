"""What makes a folder a complete checkpoint: `manifest.json`, written last, with the size and hash of every file.

    {"format": "ductile.checkpoint/1", "ductile": VERSION, "boundary": 1, "files": {NAME: {"bytes": 1, "blake2b": HEX}}}

boundary: how many phases ended at it, where it is a phase boundary, else null.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ductile import __version__

MANIFEST = "manifest.json"
FORMAT, VERSION = "ductile.checkpoint", 1

Files = dict[str, dict[str, Any]]


class WrongCheckpoint(RuntimeError):
    """A checkpoint that this run must not go on from: of another model, plan, variant or seed, or unreadable here."""


class Damaged(Exception):
    """A checkpoint is not as it was written. The text says what is wrong with it."""


def flush_files(folder: Path) -> list[Path]:
    """Make every file below the folder outlast a power cut; their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return paths


def recorded(folder: Path) -> Files:
    """Size and hash of every file below the folder by its name there, flushed to disk."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": _hash(path)}
        for path in flush_files(folder)
    }


def manifest(files: Files, boundary: int | None) -> str:
    """The text of `manifest.json`."""
    document = {"format": f"{FORMAT}/{VERSION}", "ductile": __version__, "boundary": boundary, "files": files}
    return json.dumps(document, indent=1)


def read(text: str, where: object) -> dict[str, Any]:
    """The manifest. Raises `Damaged`, and `WrongCheckpoint` for a format of a later Ductile."""
    try:
        document: dict[str, Any] = json.loads(text)
        name, version = document["format"].split("/")
        newer, sound = int(version) > VERSION, name == FORMAT and isinstance(document["files"], dict)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read") from error
    if newer:
        raise WrongCheckpoint(
            f"{where} has the format {document['format']} of Ductile {document.get('ductile')}, and this Ductile "
            f"({__version__}) reads up to {FORMAT}/{VERSION}; install that one, or change `output` to begin anew"
        )
    if not sound:
        raise Damaged(f"{MANIFEST} is not that of a checkpoint")
    return document


def manifest_of(folder: Path) -> dict[str, Any]:
    """The folder's manifest; raises as `read` does, and `Damaged` where it has none."""
    try:
        text = (folder / MANIFEST).read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = "has no" if isinstance(error, FileNotFoundError) else f"has an unreadable ({error})"
        raise Damaged(f"it {what} {MANIFEST}") from error
    return read(text, folder)


def verify(folder: Path) -> None:
    """Raises `Damaged` unless every file has the size and hash that the manifest says; else as `manifest_of`."""
    if wrong := differing(folder, manifest_of(folder)["files"]):
        raise Damaged(wrong)


def differing(folder: Path, files: Files) -> str | None:
    """What is wrong with the first file that is not as recorded; None when all are."""
    for name, expected in files.items():
        path = folder / name
        try:
            size, digest = path.stat().st_size, _hash(path)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, not {expected['bytes']}"
        if digest != expected["blake2b"]:
            return f"{name} has another hash than when it was written"
    return None


def surplus(boundaries: Mapping[str, int | None], keep: int, keep_boundaries: bool) -> Sequence[str]:
    """The checkpoints that the policy lets go: all but the newest `keep` and, if asked, the newest of each boundary.

    boundaries: name, in whose order they were written -> the manifest's `boundary`.
    """
    names = sorted(boundaries)
    kept = set(names[-keep:])
    if keep_boundaries:
        newest = {boundaries[name]: name for name in names if boundaries[name] is not None}
        kept |= set(newest.values())
    return [name for name in names if name not in kept]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
