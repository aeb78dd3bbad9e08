"""A job's own Ray: every server on loopback, and calls to it only with its token."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cluster.tiny import finish

pytestmark = pytest.mark.cluster

PROGRAM = """
import json, os, pathlib, psutil, ray
from ductile.config import RunSettings
from jobs.driver import connect

@ray.remote
class Actor:
    def alive(self): return True

@ray.remote
def allowed(): return os.environ['DUCTILE_TRUST_REMOTE_CODE']

connect(RunSettings())
actor = Actor.remote()
assert ray.get(actor.alive.remote())
listening, names = [], set()
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    for place in process.net_connections('inet'):
        if place.status == 'LISTEN' or (place.type == 2 and not place.raddr):
            listening.append(place.laddr.ip)
            names.add(process.name())
print(json.dumps({
    'listening': sorted(set(listening)), 'names': sorted(names), 'count': len(listening),
    'mode': os.environ['RAY_AUTH_MODE'], 'trust': ray.get(allowed.remote()),
}))
ray.shutdown()
"""


def test_own_ray_listens_on_loopback_alone_with_its_token_on() -> None:
    done = finish([sys.executable, "-c", PROGRAM])
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["count"] >= 5 and {"raylet", "gcs_server"} <= set(said["names"])
    assert set(said["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert said["mode"] == "token"
    assert said["trust"] == "0"
