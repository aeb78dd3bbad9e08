"""A store as MLflow is: it may be away, answer late, refuse, or take something without a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.delivery import Point, Refused


class Killed(BaseException):
    """The process ends here."""


class FakeStore:
    """Keeps runs in dicts, as a server that outlives whoever writes to it.

    Like `MlflowStore`, it leaves out values that it holds. failures: of the next writes; a positive number fails before
    the write, a negative one after it.  at: called before and after every write, may raise.
    """

    def __init__(self, failures: Sequence[int] = (), at: Callable[[str], None] = lambda _: None) -> None:
        self.failures, self.at = list(failures), at
        self.away = False
        self.attempts = 0
        self.logged: list[tuple[str, str, float, int]] = []
        self.batches: list[int] = []
        self.artifacts: dict[tuple[str, str], str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.statuses: dict[str, str] = {}
        self.refuses: set[str] = set()  # names of metrics, artifacts and tags
        self.gone: set[str] = set()  # runs

    def connect(self) -> None:
        self._write("", "connect", lambda: None)

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None,
        tags: Mapping[str, Any],
    ) -> str:
        self._write(f"id-{key}", "begin", lambda: self.statuses.update({f"id-{key}": "RUNNING"}))
        return f"id-{key}"

    def reopen(self, run_id: str) -> None:
        self._write(run_id, "reopen", lambda: self.statuses.update({run_id: "RUNNING"}))

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        def write() -> None:
            if self.refuses & {point.name for point in points}:
                raise Refused("INVALID_PARAMETER_VALUE: no")
            held = {(run, name, step) for run, name, _, step in self.logged}
            fresh = {(run_id, p.name, p.step): (run_id, p.name, p.value, p.step) for p in reversed(points)}
            self.logged += [row for key, row in reversed(fresh.items()) if key not in held]
            self.batches.append(len(points))

        self._write(run_id, "log", write)

    def artifact_text(self, run_id: str, name: str, content: str) -> None:
        def write() -> None:
            if name in self.refuses:
                raise Refused("too large")
            self.artifacts[run_id, name] = content

        self._write(run_id, "text", write)

    def artifact_file(self, run_id: str, path: str) -> None:
        from pathlib import Path

        self.artifact_text(run_id, Path(path).name, Path(path).read_text())

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        def write() -> None:
            if self.refuses & set(tags):
                raise Refused("INVALID_PARAMETER_VALUE: no")
            self.tags.setdefault(run_id, {}).update(tags)

        self._write(run_id, "tag", write)

    def finish(self, run_id: str, status: str) -> None:
        self._write(run_id, "finish", lambda: self.statuses.update({run_id: status}))

    def _write(self, run_id: str, what: str, write: Callable[[], None]) -> None:
        self.attempts += 1
        self.at(f"before {what}")
        failure = self.failures.pop(0) if self.failures else 0
        if self.away or failure > 0:
            raise ConnectionError("server away at http://me:secret@host:5000")
        if run_id in self.gone:
            raise Refused("RESOURCE_DOES_NOT_EXIST: no run", whole=True)
        write()
        self.at(f"after {what}")
        if failure < 0:
            raise TimeoutError("no answer")
