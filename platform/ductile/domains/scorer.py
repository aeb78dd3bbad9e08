"""The child process that runs scoring libraries for `timed.py`: one JSON line in, one JSON line out.

    {"library": "maths", "limit_s": 180}                                               load it
    {"library": "maths", "function": "equal", "arguments": {...}, "limit_s": 5}        call it

A reply is `{"result": ...}` or `{"error": "..."}`. The process ends with its standard input, so with its parent; soon
after the limit of a call that the parent did not live to end; and when it runs out of memory, since what filled it
would be in the way of every call after. It is bounded, not jailed: see SECURITY.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import math
import os
import queue
import resource
import sys
import threading
from typing import Any

LIBRARIES = {"maths": "ductile.domains.maths_library", "gym": "ductile.domains.gym_library"}
"""Each a module with functions of plain keyword arguments and plain results."""

GRACE_S = 1.0
"""How long after its limit a call ends that its parent has not ended: one in C code may hold off everything else."""

MEMORY_BYTES = 2 << 30
"""Address space. Both libraries, loaded with one thread, take 0.25 GB of it."""

OPEN_FILES = 128
MOST_REPLY = 1 << 20
"""Characters of a reply. The longest problem of reasoning-gym has a hundredth of it."""
MOST_REASON = 500
"""Characters of an error that are told: libraries like to quote the whole answer."""

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # unshare(2)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request; an error of the library is reported, and none but `MemoryError` is raised."""
    try:
        module = importlib.import_module(LIBRARIES[request["library"]])
        if "function" not in request:
            return {"result": None}
        return {"result": getattr(module, request["function"])(**request["arguments"])}
    except MemoryError:
        raise
    except Exception as error:  # any error of any library; the parent turns it into a note
        return {"error": f"{type(error).__name__}: {error}"[:MOST_REASON]}


def written(reply: dict[str, Any]) -> str:
    """A reply as one line; an error in place of what is too long or no plain value."""
    try:
        line = json.dumps(reply)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:MOST_REASON]})
    return line if len(line) <= MOST_REPLY else json.dumps({"error": f"the result has more than {MOST_REPLY} bytes"})


def main() -> None:
    """Answer requests until standard input closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115  open as long as the process
    confine()
    # What a library prints must neither stand between the replies nor fill the job's log.
    os.dup2(nowhere.fileno(), 1)
    os.dup2(nowhere.fileno(), 2)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        faulthandler.dump_traceback_later(request["limit_s"] + GRACE_S, exit=True, file=nowhere)  # needs no signals
        _bound_cpu(request["limit_s"] + GRACE_S)
        try:
            line = written(answer(request))
        except MemoryError:
            os._exit(1)
        faulthandler.cancel_dump_traceback_later()
        replies.write(line + "\n")
        replies.flush()


def confine() -> None:
    """Bound this process: memory, files, no core dumps, and no network where the system lets a process give it up."""
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS takes no limit of the address space
            resource.setrlimit(what, (bound, bound))
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is not None and unshare(_NEW_NETWORK) != 0:
        unshare(_NEW_USER | _NEW_NETWORK)


def _bound_cpu(more_s: float) -> None:
    """End the process when it has used so many more seconds of CPU, in all its threads."""
    usage, hard = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = math.ceil(usage.ru_utime + usage.ru_stime + more_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _read(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone; a library call that is still running must not outlive it


if __name__ == "__main__":
    main()
