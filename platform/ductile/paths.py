"""Names that become files: what they may be, and a folder joined with one that cannot lead out of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

LONGEST = 100
"""Bytes of a name: three of them and a seed must fit a file system's 255."""


class UnsafePath(ValueError):
    """A name that would lead out of its folder."""


def name_mistake(name: str) -> str | None:
    r"""What keeps a name from being one part of a file's path; None when nothing does.

    >>> name_mistake("../elsewhere")
    'it may hold no / or \\'
    >>> name_mistake("too hard, 2nd try")
    """
    if not name.strip():
        return "it is empty"
    if "/" in name or "\\" in name:
        return "it may hold no / or \\"
    if not name.isprintable():
        return "it may hold printable characters alone"
    if name[0] in ".-" or name != name.strip():
        return "it may not begin with a dot or a dash, nor begin or end with a space"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"it may have {LONGEST} bytes at most"
    return None


def inside(root: Path, name: str) -> Path:
    """`root / name`, where a relative path of several parts may be a name too.

    Raises `UnsafePath` for one that is empty or absolute, climbs with `..`, holds a NUL, or leads out of the root over
    a symbolic link that is there now.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or "\0" in name or name.startswith(("/", "\\")) or ".." in parts:
        raise UnsafePath(f"{name!r} is no name of a file below {str(root)!r}")
    path = root / name
    try:
        resolved, bound = path.resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # names that are too long, links in a circle
        raise UnsafePath(f"{name!r} is no name of a file below {str(root)!r}: {error}") from None
    if resolved == bound or not resolved.is_relative_to(bound):
        raise UnsafePath(f"{name!r} leads out of {str(root)!r}")
    return path
