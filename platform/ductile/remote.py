"""A second place for a run's checkpoints, on any of pyarrow's file systems: `checkpoint.store`.

Below the store each run has a folder of the last two names of its own, `NAME-ID/VARIANT-PLAN-seedN`. A checkpoint there
is complete when its manifest is, which is copied last and removed first. Beside them are copies of what checkpoints
refer to: models that the run made, and snapshots that branches wait for.
"""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path

from pyarrow import fs

from ductile.manifest import MANIFEST, manifest_of, read, surplus, verify

BESIDE = ("models", "snapshots")


def opened(store: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI or local path, and the path in it. Raises `OSError` or `ValueError`, without secrets."""
    if re.search(r"//[^/]*@|[?&](access|secret|session|token|password|sas)[^=]*=", store, re.IGNORECASE):
        raise ValueError(
            "it has credentials in it, which would be written to settings.json and MLflow; give them in the "
            "environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or by the machine's role"
        )
    if "://" not in store:
        return fs.LocalFileSystem(), str(Path(store).expanduser().absolute())
    filesystem, path = fs.FileSystem.from_uri(store)
    return filesystem, path


class Remote:
    """A run's folder in the store. Its methods raise `OSError` when the store does not answer."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._fs, self._path = filesystem, path.rstrip("/")
        self._here = fs.LocalFileSystem()

    @classmethod
    def of(cls, store: str, run: Path) -> Remote:
        """The place of a run that keeps its checkpoints in the folder `run`."""
        filesystem, path = opened(store)
        return cls(filesystem, f"{path.rstrip('/')}/{run.absolute().parent.name}/{run.name}")

    def names(self) -> list[str]:
        """Complete checkpoints, the oldest first."""
        return sorted(path.split("/")[-2] for path in self._files("") if path.endswith(f"/{MANIFEST}"))

    def send(self, checkpoint: Path, keep: int, keep_boundaries: bool) -> None:
        """Copy a complete checkpoint and what is beside it; then let go what the policy does not keep."""
        for name in BESIDE:
            self._mirror(checkpoint.parent / name)
        self._remove(checkpoint.name)
        files = manifest_of(checkpoint)["files"]
        for name in [*files, MANIFEST]:
            self._put(checkpoint / name, f"{checkpoint.name}/{name}")
        complete = {name: read(self._text(f"{name}/{MANIFEST}"), name)["boundary"] for name in self.names()}
        for name in surplus(complete, keep, keep_boundaries):
            self._remove(name)

    def fetch(self, name: str, run: Path) -> Path:
        """Copy a checkpoint and what is beside it into the run's folder; raises `manifest.Damaged` for a bad one."""
        temporary = run / f".writing-{uuid.uuid4().hex}"
        try:
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

    def _mirror(self, folder: Path) -> None:
        """Copy files that the store lacks, or has in another size; remove folders that are no longer here."""
        there = self._files(folder.name)
        for path in sorted(path for path in folder.glob("[!.]*/**/*") if path.is_file()):
            name = path.relative_to(folder.parent).as_posix()
            try:
                if there.get(f"{self._path}/{name}") != path.stat().st_size:
                    self._put(path, name)
            except FileNotFoundError:  # a snapshot that the run needs no more
                if path.exists():
                    raise
        held = {Path(path).relative_to(f"{self._path}/{folder.name}").parts[0] for path in there}
        for name in held - {path.name for path in folder.glob("*")}:
            self._fs.delete_dir(f"{self._path}/{folder.name}/{name}")

    def _fetch_beside(self, folder: Path) -> None:
        """Folders that are not here yet, each of them whole."""
        root, paths = f"{self._path}/{folder.name}", self._files(folder.name)
        for name in {Path(path).relative_to(root).parts[0] for path in paths}:
            if not (folder / name).exists():
                temporary = folder / f".writing-{uuid.uuid4().hex}"
                for path in paths:
                    if path.startswith(f"{root}/{name}/"):
                        self._get(path, temporary / Path(path).relative_to(f"{root}/{name}"))
                temporary.rename(folder / name)

    def _files(self, below: str) -> dict[str, int]:
        """Path -> bytes of every file in a folder of the run's."""
        found = self._fs.get_file_info(
            fs.FileSelector(f"{self._path}/{below}".rstrip("/"), recursive=True, allow_not_found=True)
        )
        return {info.path: info.size for info in found if info.type == fs.FileType.File}

    def _put(self, path: Path, name: str) -> None:
        target = f"{self._path}/{name}"
        self._fs.create_dir(target.rpartition("/")[0], recursive=True)
        fs.copy_files(str(path), target, source_filesystem=self._here, destination_filesystem=self._fs)

    def _get(self, source: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(source, str(target), source_filesystem=self._fs, destination_filesystem=self._here)

    def _text(self, name: str) -> str:
        with self._fs.open_input_stream(f"{self._path}/{name}") as file:
            return bytes(file.read()).decode()

    def _remove(self, name: str) -> None:
        """A checkpoint, whole or not; it is incomplete before anything else of it is gone."""
        there = self._files(name)
        if f"{self._path}/{name}/{MANIFEST}" in there:
            self._fs.delete_file(f"{self._path}/{name}/{MANIFEST}")
        if there:
            self._fs.delete_dir(f"{self._path}/{name}")
