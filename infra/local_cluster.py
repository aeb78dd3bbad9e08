"""A real Ray cluster of several nodes on one machine, to try jobs, placement and faults on.

    python infra/local_cluster.py start --nodes 3 --cpus 2 --labels "" role=rollout role=learner
    python infra/local_cluster.py add --labels role=rollout
    python infra/local_cluster.py remove n1 --kill
    python infra/local_cluster.py status
    python infra/local_cluster.py stop

Every node is a `ray start --block` of its own, with its own ports and folder; what it began is written to
`cluster.json`, and stop ends that and nothing else, so that several clusters and other Rays live side by side. Servers
listen on loopback, or with --namespaces on addresses of network namespaces made for the nodes (root on Linux only).
Ray asks for the token in ~/.ray/auth_token (or RAY_AUTH_TOKEN_PATH), which is made when there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(f"/tmp/ductile-{os.getuid()}")
STATE = "cluster.json"
LONGEST = 40
"""Characters of a cluster's folder: below it are unix sockets, whose whole paths may have 107."""
STORE_BYTES = 100_000_000
READY_S = 90.0
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 Ray takes 127.0.0.1 for what it is (its name is older than its use); drivers of the cluster need it too."""
MARK = "DUCTILE_LOCAL_NODE"
"""Environment variable that every process of a node inherits: how the node's processes are told from all others."""


@dataclass(frozen=True)
class Node:
    """A node that runs. `mark` is unique to it; `pid` is its `ray start`; `namespace` is empty without one."""

    name: str
    pid: int
    mark: str
    ip: str
    cpus: int
    labels: Mapping[str, str]
    namespace: str = ""


@dataclass
class State:
    """What stop needs to know, as it stands in `cluster.json`. made: nodes so far; own: start made the folder."""

    folder: str
    address: str = ""
    dashboard: str = ""
    token_path: str = ""
    bridge: str = ""
    subnet: int = 0
    made: int = 0
    own: bool = False
    nodes: list[Node] = field(default_factory=list)


class ClusterError(RuntimeError):
    """The cluster could not be started, or has no such node."""


class LocalCluster:
    """A cluster whose nodes come and go. As a context manager it is stopped at the end, whatever happened.

    environment: more variables of every node's processes, as in Ray's own RAY_health_check_period_ms.
    dashboard: with it the head takes jobs (`ray job submit`), without it fewer processes run.
    """

    def __init__(
        self,
        folder: Path = FOLDER,
        *,
        dashboard: bool = True,
        namespaces: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if len(str(folder)) > LONGEST:
            raise ClusterError(f"folder: {folder} is too long for Ray's unix sockets; allowed: {LONGEST} characters")
        self.folder = folder
        self._dashboard, self._namespaces = dashboard, namespaces
        self._extra = dict(environment or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}  # waited for, so that the dead leave no zombies
        self._state = _read(folder)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What `ray.init` and RAY_ADDRESS take, for a driver on the head's node."""
        return self._state.address

    @property
    def dashboard(self) -> str:
        """What `ray job submit --address` takes."""
        return self._state.dashboard

    @property
    def nodes(self) -> list[Node]:
        """The nodes, the head first."""
        return list(self._state.nodes)

    def environment(self) -> dict[str, str]:
        """Variables that let Ray's commands and drivers reach this cluster."""
        found = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self._state.token_path}
        found |= {"RAY_API_SERVER_ADDRESS": self.dashboard} if self.dashboard else {}
        found |= {} if self._state.bridge else {LOOPBACK: "0"}
        return {**found, "RAY_ADDRESS": self.address}

    def start(self, nodes: int = 1, cpus: int = 2, labels: Sequence[Mapping[str, str]] = ()) -> LocalCluster:
        """Start the head and so many nodes with it in all; labels: of each node, the head first."""
        if self._state.nodes:
            raise ClusterError(f"a cluster runs in {self.folder}; stop it first: local_cluster.py stop")
        if nodes < 1:
            raise ClusterError(f"nodes: {nodes} is too few; allowed: 1, the head, and more")
        if len(labels) > nodes:
            raise ClusterError(f"labels: there are {len(labels)}, for {nodes} nodes; give one for each node at most")
        known = (self.folder / STATE).exists()
        if not known and self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise ClusterError(f"folder: {self.folder} holds other things; allowed: one that is empty, or is not there")
        own = self._state.own or not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state = State(str(self.folder), token_path=str(_token()), own=own)
        self._write()
        if self._namespaces:
            self._make_bridge()
        of = [*labels, *[{}] * (nodes - len(labels))]
        try:
            self._begin(cpus, of[0], head=True)
            self._wait_until_alive(1)
            for each in of[1:nodes]:
                self._begin(cpus, each, head=False)
            self._wait_until_alive(nodes)
        except BaseException:
            self._end()  # and leave the logs, which say why
            self._write()
            raise
        return self

    def add(self, cpus: int = 2, labels: Mapping[str, str] | None = None) -> str:
        """A node more; returns its name once Ray counts it."""
        if not self._state.nodes:
            raise self._none()
        wanted = len(self._state.nodes) + 1  # the head may not have noticed yet that a killed node is gone
        name = self._begin(cpus, labels or {}, head=False)
        self._wait_until_alive(wanted)
        return name

    def remove(self, name: str, kill: bool = False) -> None:
        """Take a node away: asked to end, or with `kill` all its processes at once, as when a machine loses power."""
        node = self._node(name)
        if not kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGTERM)
            self._wait_until_gone(node, 15.0)
        self._kill(node)
        self._state.nodes.remove(node)
        self._write()
        _unmake_namespace(node)

    def alive(self) -> list[dict[str, Any]]:
        """What the cluster's head says of the nodes that are alive: id, name, address, resources, labels."""
        # In a process of its own: Ray reads its mode of authentication once a process.
        done = subprocess.run(
            [*self._inside(self._state.nodes[0]), sys.executable, "-c", _ASK, self.address],
            env=self._shell(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []

    def processes(self, name: str) -> dict[int, str]:
        """Every process of a node, workers and jobs too: its id and command line."""
        return {pid: _command(pid) for pid in _processes(self._node(name))}

    def stop(self) -> None:
        """End every process that this cluster began, and remove the files and folders that it made."""
        self._end()
        if not (self.folder / STATE).exists():
            return  # nothing was begun here
        for name in ["head", *(f"n{number}" for number in range(1, self._state.made))]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / f"{name}.log").unlink(missing_ok=True)
        (self.folder / STATE).unlink(missing_ok=True)
        if self._state.own:
            with contextlib.suppress(OSError):  # something else was put there
                self.folder.rmdir()
        self._state = State(str(self.folder))

    def _end(self) -> None:
        """End every process."""
        nodes = self._state.nodes[::-1]
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGTERM)
        for node in nodes:
            self._wait_until_gone(node, 10.0)
            self._kill(node)
            _unmake_namespace(node)
        if self._state.bridge:
            _ip("link", "del", self._state.bridge, check=False)
        self._state.nodes, self._state.bridge = [], ""

    def _none(self) -> ClusterError:
        return ClusterError(f"no cluster runs in {self.folder}: local_cluster.py start")

    def _begin(self, cpus: int, labels: Mapping[str, str], *, head: bool) -> str:
        name = "head" if head else f"n{self._state.made}"
        self._state.made += 1
        ip, namespace = "127.0.0.1", ""
        if self._state.bridge:
            ip, namespace = self._make_namespace(name)
        command = ["start", "--block", f"--temp-dir={self.folder / name}", f"--node-ip-address={ip}"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        command += ["--labels=" + ",".join(f"{k}={v}" for k, v in {"node": name, **labels}.items())]
        if head:
            port, board, client = _free_ports(3)
            self._state.address = f"{ip}:{port}"
            self._state.dashboard = f"http://{ip}:{board}" if self._dashboard else ""
            command += ["--head", f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-port={board}"]
            command += [f"--dashboard-host={ip}", f"--include-dashboard={str(self._dashboard).lower()}"]
        else:
            command += [f"--address={self.address}"]
        command += [f"--dashboard-agent-listen-port={_free_ports(1)[0]}"]
        mark = f"{self.folder}/{name}/{secrets.token_hex(4)}"
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*(["ip", "netns", "exec", namespace] if namespace else []), *_ray(loopback=not namespace), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**self._shell(), **self._extra, MARK: mark},
            )
        self._children[child.pid] = child
        self._state.nodes.append(Node(name, child.pid, mark, ip, cpus, dict(labels), namespace))
        self._write()
        return name

    def _shell(self) -> dict[str, str]:
        """This process's environment without what ties it to another Ray, with the cluster's token.

        `python` is this one, as on an image with the project in it: a job says no more than `python -m jobs...`.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
        found = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
        return {**kept, "PATH": found, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self._state.token_path}

    def _inside(self, node: Node) -> list[str]:
        return ["ip", "netns", "exec", node.namespace] if node.namespace else []

    def _node(self, name: str) -> Node:
        for node in self._state.nodes:
            if node.name == name:
                return node
        if not self._state.nodes:
            raise self._none()
        raise ClusterError(f"no node {name!r}; there are: {', '.join(node.name for node in self._state.nodes)}")

    def _wait_until_alive(self, count: int) -> None:
        deadline = time.monotonic() + READY_S
        while len(self.alive()) < count:
            for node in self._state.nodes:
                self._reap()
                if not _exists(node.pid):
                    told = (self.folder / f"{node.name}.log").read_text(errors="replace")[-2000:]
                    raise ClusterError(f"node {node.name} ended as it began:\n{told}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{count} nodes were not alive after {READY_S:.0f} s; see {self.folder}/*.log")
            time.sleep(0.2)

    def _wait_until_gone(self, node: Node, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while _processes(node) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.1)

    def _kill(self, node: Node) -> None:
        """Until none is left: one that was just being started may have been missed."""
        deadline = time.monotonic() + 20.0
        while left := _processes(node):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if time.monotonic() > deadline:
                raise ClusterError(f"processes of node {node.name} do not end: {left}")
            time.sleep(0.05)

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    def _write(self) -> None:
        path = self.folder / STATE
        path.with_suffix(".new").write_text(json.dumps(asdict(self._state), indent=1))
        path.with_suffix(".new").replace(path)

    def _make_bridge(self) -> None:
        if not namespaces_allowed():
            raise ClusterError("network namespaces are not allowed here (they need root); leave --namespaces out")
        taken = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
        subnet = next(number for number in range(1, 255) if f"10.213.{number}." not in taken)
        self._state.subnet, self._state.bridge = subnet, f"dlb{subnet}"
        _ip("link", "add", self._state.bridge, "type", "bridge")
        _ip("addr", "add", f"10.213.{subnet}.254/24", "dev", self._state.bridge)
        _ip("link", "set", self._state.bridge, "up")
        self._write()

    def _make_namespace(self, name: str) -> tuple[str, str]:
        """A namespace with one interface on the bridge and no way out of it; its address and name."""
        ip = f"10.213.{self._state.subnet}.{self._state.made}"
        namespace, outer, inner = (
            f"{kind}{self._state.subnet}x{self._state.made}" for kind in ("ductile", "dlo", "dli")
        )
        _ip("netns", "add", namespace)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace)
        _ip("link", "set", outer, "master", self._state.bridge, "up")
        _ip("-n", namespace, "addr", "add", f"{ip}/24", "dev", inner)
        _ip("-n", namespace, "link", "set", inner, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        return ip, namespace


def namespaces_allowed() -> bool:
    """Whether this process may make network namespaces and bridges; what it tries with is removed again."""
    if shutil.which("ip") is None or os.getuid() != 0:
        return False
    probe = f"dlp{os.getpid()}"
    made = [_ip(*add, check=False) for add in (("netns", "add", probe), ("link", "add", probe[:15], "type", "bridge"))]
    _ip("link", "del", probe[:15], check=False)
    _ip("netns", "del", probe, check=False)
    return all(made)


_START = """
import os
from ray._private import services
from ray.scripts import scripts
services.get_node_ip_address = lambda address=None: "127.0.0.1"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
scripts.main()
"""
"""`ray start` on loopback. Ray replaces 127.0.0.1 by the machine's own address, on which it would then listen; its own
way to stay on loopback, this variable, is refused for more than one node, and so is set after it was looked at."""

_ASK = """
import json, sys
from ray._raylet import GcsClient
rows = []
for node in GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20).values():
    if node.state == 0:
        rows.append({"id": node.node_id.hex(), "name": node.labels.get("node", ""), "ip": node.node_manager_address,
                     "resources": dict(node.resources_total), "labels": dict(node.labels)})
print(json.dumps(rows))
"""


def _token() -> Path:
    """The file of the token that Ray asks for; made, for this user alone, when there is none."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.touch(0o600, exist_ok=False)
            path.write_text(secrets.token_hex(32))
    return path


def _ray(*, loopback: bool) -> list[str]:
    """The command line of `ray`."""
    return [sys.executable, "-c", _START] if loopback else [sys.executable, "-m", "ray.scripts.scripts"]


def _read(folder: Path) -> State:
    path = folder / STATE
    if not path.exists():
        return State(str(folder))
    try:
        plain = json.loads(path.read_text())
        return State(**{**plain, "nodes": [Node(**node) for node in plain["nodes"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise ClusterError(f"{path} is no cluster's: {error}") from error


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def _processes(node: Node) -> set[int]:
    """The node's processes that live: they carry its mark, or are descendants of those that do."""
    parents = dict(_living())
    mark = f"{MARK}={node.mark}".encode()
    found = {pid for pid in parents if mark in _environment(pid)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _living() -> Iterator[tuple[int, int]]:
    """(process, parent) of every process that is not a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state not in ("Z", "X"):
                yield int(path.parent.name), int(parent)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    return pid in dict(_living())


def _ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode == 0


def _unmake_namespace(node: Node) -> None:
    if node.namespace:
        _ip("netns", "del", node.namespace, check=False)  # its interface goes with it


def _labels(text: str) -> dict[str, str]:
    """role=rollout,zone=a as a mapping."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r}: write labels as key=value, with commas between them")
    return {key: value for key, _, value in pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help=f"the cluster's own folder, short (default {FOLDER})"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start a cluster")
    start.add_argument("--nodes", type=int, default=3, help="nodes, the head among them")
    start.add_argument("--namespaces", action="store_true", help="each node in a network namespace of its own (root)")
    add = commands.add_parser("add", help="a node more")
    for each in (start, add):
        each.add_argument("--cpus", type=int, default=2, help="logical CPUs of each node")
    start.add_argument("--labels", type=_labels, nargs="*", default=[], help="of each node, the head first")
    add.add_argument("--labels", type=_labels, default={}, help="as in role=rollout,zone=a")
    remove = commands.add_parser("remove", help="take a node away")
    remove.add_argument("node")
    remove.add_argument("--kill", action="store_true", help="kill -9 everything on it, as when a machine loses power")
    commands.add_parser("status", help="the nodes, and how to reach them")
    commands.add_parser("stop", help="end everything that this cluster began")
    asked = parser.parse_args(arguments)
    try:
        cluster = LocalCluster(asked.folder, namespaces=getattr(asked, "namespaces", False))
        _do(cluster, asked)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _do(cluster: LocalCluster, asked: argparse.Namespace) -> None:
    if asked.command == "start":
        cluster.start(asked.nodes, asked.cpus, asked.labels)
    elif asked.command == "add":
        print(cluster.add(asked.cpus, asked.labels))
    elif asked.command == "remove":
        cluster.remove(asked.node, asked.kill)
    elif asked.command == "stop":
        if not (cluster.folder / STATE).exists():
            raise ClusterError(f"no cluster runs in {cluster.folder}")
        cluster.stop()
    if asked.command in ("start", "status"):
        _show(cluster)


def _show(cluster: LocalCluster) -> None:
    if not cluster.nodes:
        print("no cluster runs")
        return
    alive = {row["name"] for row in cluster.alive()}
    for node in cluster.nodes:
        labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
        print(f"{node.name:6} {node.ip:15} {node.cpus} CPUs  {'alive' if node.name in alive else 'DEAD':6} {labels}")
    for name, value in cluster.environment().items():
        print(f"export {name}={value}")


if __name__ == "__main__":
    raise SystemExit(main())
