"""Question and answer fields of a JSONL or Parquet file, checked, with each row's place for messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ductile.settings import nearest


class Row(NamedTuple):
    """`place`: `line 3` or `row 3`, from 1."""

    place: str
    question: str
    answer: str


class RowsError(ValueError):
    """`option: what is wrong with the file`."""


def read_rows(path: Path, fields: Mapping[str, str]) -> tuple[Row, ...]:
    """All rows; a file is read again when it has changed. fields: names by option. Raises `RowsError`."""
    state = path.stat()
    return _read(path, (state.st_mtime_ns, state.st_size), fields["question"], fields["answer"])


@lru_cache(maxsize=4)
def _read(
    path: Path,
    state: tuple[int, int],  # noqa: ARG001  part of the cache's key
    question: str,
    answer: str,
) -> tuple[Row, ...]:
    values = _parquet(path, question, answer) if path.suffix == ".parquet" else _jsonl(path)
    rows = tuple(
        Row(place, _text(value, "question", question, place, path), _text(value, "answer", answer, place, path))
        for place, value in values
    )
    if not rows:
        raise RowsError(f"path: {str(path)!r} has no rows")
    return rows


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"line {number}", _object(line, number, path)
        except UnicodeDecodeError as error:
            raise RowsError(f"path: {str(path)!r} is not UTF-8 text: {error}") from None


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets without end
        raise RowsError(f"path: {str(path)!r} line {number} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowsError(f"path: {str(path)!r} line {number} is not a JSON object: {line.strip()[:60]}")
    return value


def _parquet(path: Path, *fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow  # a heavy import, for those who read Parquet
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        columns = [name for name in names if name in fields]
        table = pyarrow.parquet.read_table(path, columns=columns)
    except pyarrow.ArrowException as error:
        raise RowsError(f"path: {str(path)!r} is not a Parquet file: {error}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row


def _text(row: Mapping[str, Any], option: str, field: str, place: str, path: Path) -> str:
    if field not in row:
        names = (", ".join(map(str, row)) or "none") + nearest(field, row)
        raise RowsError(f"{option}: no field {field!r} at {place} of {str(path)!r}; its fields: {names}")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowsError(f"{option}: field {field!r} at {place} of {str(path)!r} is {value!r}, not text or a number")
    return str(value)
