"""A second place for a run's checkpoints, on any of pyarrow's file systems: `checkpoint.store`.

Below the store each run has a folder of the last two names of its own and what its result depends on,
`NAME-ID/VARIANT-PLAN-seedN-FINGERPRINT`: trials of all sweeps have the same names. A checkpoint there is complete when
its manifest is, which is copied last and removed first. Beside them are copies of what checkpoints refer to, models
that the run made and snapshots that branches wait for: `models/expert-1` is complete when `models/expert-1.json` is.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pyarrow import ArrowException, fs

from ductile.manifest import MANIFEST, Damaged, Files, WrongCheckpoint, differing, read, recorded, surplus, verify

BESIDE = ("models", "snapshots")
LONGEST = 300
"""Characters of another library's error that are told: that of a missing JVM has 15,000."""


def opened(store: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI or local path, and the path in it. Raises `OSError` or `ValueError`, without secrets."""
    if re.search(r"//[^/]*@|[?&](access|secret|session|token|password|sas)[^=]*=", store, re.IGNORECASE):
        raise ValueError(
            "it has credentials in it, which would be written to settings.json and MLflow; give them in the "
            "environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or by the machine's role"
        )
    if "://" not in store:
        return fs.LocalFileSystem(), _absolute(store)
    filesystem, path = fs.FileSystem.from_uri(store)
    return filesystem, path


def refuse_wrong(store: str) -> None:
    """Raises `ValueError` for what can be no store, whether or not there is a network to ask."""
    try:
        if store.startswith("s3://") and "region=" not in store:  # else its bucket would be asked where it is
            store += f"{'&' if '?' in store else '?'}region=us-east-1"
        opened(store)
    except OSError:  # away, or not to be had from this machine: a run tries again
        return


def brief(error: BaseException) -> str:
    """An error's text on one line, cut."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class Remote:
    """A run's folder in the store, opened when it is first asked. Raises `OSError` when the store does not answer."""

    def __init__(self, open: Callable[[], tuple[fs.FileSystem, str]]) -> None:
        self._open = open
        self._here = fs.LocalFileSystem()
        self._recorded: dict[Path, tuple[list[tuple[str, int, int]], Files]] = {}  # of folders beside: hashed once

    @classmethod
    def of(cls, store: str, run: Path, fingerprint: str = "") -> Remote:
        """The place of a run that keeps its checkpoints in the folder `run`."""
        place = store if "://" in store else _absolute(store)  # once: a process may change its folder
        run = run.absolute()
        name = "/".join([run.parent.name, f"{run.name}-{fingerprint}" if fingerprint else run.name])

        def open() -> tuple[fs.FileSystem, str]:
            filesystem, path = opened(place)
            return filesystem, f"{path.rstrip('/')}/{name}"

        return cls(open)

    def names(self) -> list[str]:
        """Checkpoints that have a manifest, the oldest first."""
        with _answering():
            return self._names()

    def send(self, checkpoint: Path, keep: int, keep_boundaries: bool) -> None:
        """Copy a complete checkpoint and what is beside it; then let go what is gone here or the policy does not keep.

        What is there already is not copied again.
        """
        with _answering():
            held = {name: self._copy_beside(checkpoint.parent / name) for name in BESIDE}
            text = (checkpoint / MANIFEST).read_text()
            if self._text(f"{checkpoint.name}/{MANIFEST}") != text:
                self._remove(checkpoint.name)
                for name in [*json.loads(text)["files"], MANIFEST]:
                    self._put(checkpoint / name, f"{checkpoint.name}/{name}")
            boundaries = self._boundaries()
            begun = {name for name in self._folders("") if name.startswith("checkpoint-") and name not in boundaries}
            half = {name for name in begun if name < checkpoint.name}
            for name in sorted(half | set(surplus(boundaries, keep, keep_boundaries))):
                self._remove(name)
            for kind, names in held.items():
                for name in self._folders(kind) - names:
                    self._remove_beside(kind, name)

    def fetch(self, name: str, run: Path) -> Path:
        """Copy a checkpoint and what is beside it into the run's folder; raises `manifest.Damaged` for a bad one."""
        temporary = run / f".writing-{uuid.uuid4().hex}"
        try:
            with _answering():
                for path in self._files(name):
                    self._get(path, temporary / Path(path).relative_to(f"{self._path}/{name}"))
                verify(temporary)
                for beside in BESIDE:
                    self._fetch_beside(run / beside)
                shutil.rmtree(run / name, ignore_errors=True)
                temporary.rename(run / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return run / name

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        filesystem, path = self._open()
        return filesystem, path.rstrip("/")

    @property
    def _fs(self) -> fs.FileSystem:
        return self._opened[0]

    @property
    def _path(self) -> str:
        return self._opened[1]

    def _names(self) -> list[str]:
        below = (path.removeprefix(f"{self._path}/").split("/") for path in self._files(""))
        return sorted(parts[0] for parts in below if parts[0].startswith("checkpoint-") and parts[1:] == [MANIFEST])

    def _boundaries(self) -> dict[str, int | None]:
        """Of every complete checkpoint, the manifest's `boundary`. One whose manifest cannot be read is none."""
        found: dict[str, int | None] = {}
        for name in self._names():
            try:
                found[name] = read(self._text(f"{name}/{MANIFEST}") or "", name)["boundary"]
            except Damaged:
                continue
            except WrongCheckpoint:  # of a later Ductile
                found[name] = None
        return found

    def _copy_beside(self, folder: Path) -> set[str]:
        """Copy folders that the store has not, or has otherwise: a snapshot may be made again. Names of all of them."""
        names = set()
        for each in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
            try:
                manifest = json.dumps(self._record(each))
                if self._text(f"{folder.name}/{each.name}.json") != manifest:
                    self._remove_beside(folder.name, each.name)
                    for name in json.loads(manifest):
                        self._put(each / name, f"{folder.name}/{each.name}/{name}")
                    self._write(f"{folder.name}/{each.name}.json", manifest)
            except FileNotFoundError:
                if each.exists():
                    raise
                continue  # a snapshot that the run needs no more
            names.add(each.name)
        return names

    def _record(self, folder: Path) -> Files:
        """Size and hash of the folder's files, read again only when one has changed."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        seen = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
        known = self._recorded.get(folder)
        if known is None or known[0] != seen:
            known = self._recorded[folder] = seen, recorded(folder)
        return known[1]

    def _fetch_beside(self, folder: Path) -> None:
        """Folders that are complete there and not here, and snapshots that are here with another content."""
        for name in sorted(self._folders(folder.name)):
            text = self._text(f"{folder.name}/{name}.json")
            if text is None:
                continue
            try:
                files: Files = json.loads(text)
            except ValueError:  # half copied
                continue
            here, kind = folder / name, folder.name
            if here.exists() and (kind == "models" or recorded(here) == files):  # a model is named for its content
                continue
            temporary = folder / f".writing-{uuid.uuid4().hex}"
            try:
                temporary.mkdir(parents=True)
                for file in files:
                    self._get(f"{self._path}/{kind}/{name}/{file}", temporary / file)
                if wrong := differing(temporary, files):
                    raise Damaged(f"{kind}/{name} beside it: {wrong}")
                shutil.rmtree(here, ignore_errors=True)
                temporary.rename(here)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _folders(self, below: str) -> set[str]:
        """Names in a folder of the run's of all that has files there; a folder beside with or without its manifest."""
        root = f"{self._path}/{below}".rstrip("/")
        parts = [path.removeprefix(f"{root}/").split("/") for path in self._files(below)]
        return {each[0].removesuffix(".json") if len(each) == 1 else each[0] for each in parts}

    def _files(self, below: str) -> Iterator[str]:
        """Paths of every file in a folder of the run's."""
        found = self._fs.get_file_info(
            fs.FileSelector(f"{self._path}/{below}".rstrip("/"), recursive=True, allow_not_found=True)
        )
        return (info.path for info in found if info.type == fs.FileType.File)

    def _put(self, path: Path, name: str) -> None:
        target = self._place(name)
        fs.copy_files(str(path), target, source_filesystem=self._here, destination_filesystem=self._fs)

    def _write(self, name: str, text: str) -> None:
        with self._fs.open_output_stream(self._place(name)) as file:
            file.write(text.encode())

    def _place(self, name: str) -> str:
        target = f"{self._path}/{name}"
        self._fs.create_dir(target.rpartition("/")[0], recursive=True)
        return target

    def _get(self, source: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(source, str(target), source_filesystem=self._fs, destination_filesystem=self._here)

    def _text(self, name: str) -> str | None:
        """A file's text, None where there is none."""
        path = f"{self._path}/{name}"
        if self._fs.get_file_info([path])[0].type != fs.FileType.File:
            return None
        with self._fs.open_input_stream(path) as file:
            return bytes(file.read()).decode(errors="replace")

    def _remove(self, name: str) -> None:
        """A checkpoint, whole or not; it is incomplete before anything else of it is gone."""
        self._remove_folder(name, f"{name}/{MANIFEST}")

    def _remove_beside(self, kind: str, name: str) -> None:
        self._remove_folder(f"{kind}/{name}", f"{kind}/{name}.json")

    def _remove_folder(self, name: str, manifest: str) -> None:
        for path, kind in ((manifest, fs.FileType.File), (name, fs.FileType.Directory)):
            place = f"{self._path}/{path}"
            if self._fs.get_file_info([place])[0].type != kind:
                continue
            if kind == fs.FileType.File:
                self._fs.delete_file(place)
            else:
                self._fs.delete_dir(place)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


@contextmanager
def _answering() -> Iterator[None]:
    """Whatever a file system raises is the store's failure, and brief; what a checkpoint is not, stays as it is."""
    try:
        yield
    except (OSError, ArrowException, ValueError) as error:
        raise OSError(brief(error)) from error
