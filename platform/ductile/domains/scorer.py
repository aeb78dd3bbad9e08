"""The child process that runs scoring libraries for `timed.py`: one JSON line in, one JSON line out.

    {"library": "maths", "limit_s": 180}                                               load it
    {"library": "maths", "function": "equal", "arguments": {...}, "limit_s": 5}        call it

A reply is `{"result": ...}` or `{"error": "..."}`. The process ends with its standard input, so with its parent; and
soon after the limit of a call that the parent did not live to end.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import queue
import sys
import threading
from typing import Any

LIBRARIES = {"maths": "ductile.domains.maths_library", "gym": "ductile.domains.gym_library"}
"""Each a module with functions of plain keyword arguments and plain results."""

GRACE_S = 1.0
"""How long after its limit a call ends that its parent has not ended: one in C code may hold off everything else."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request; an error of the library is reported, never raised."""
    try:
        module = importlib.import_module(LIBRARIES[request["library"]])
        if "function" not in request:
            return {"result": None}
        return {"result": getattr(module, request["function"])(**request["arguments"])}
    except Exception as error:  # any error of any library; the parent turns it into a note
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer requests until standard input closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115  open as long as the process
    os.dup2(2, 1)  # what a library prints must not stand between the replies
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        faulthandler.dump_traceback_later(request["limit_s"] + GRACE_S, exit=True, file=nowhere)  # needs no signals
        reply = answer(request)
        faulthandler.cancel_dump_traceback_later()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _read(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone; a library call that is still running must not outlive it


if __name__ == "__main__":
    main()
