"""A private SLURM whose nodes have cables to cut: each has a separate network (a namespace), address and host name.

One bridge on this machine is the switch, a pair of virtual cards is a node's cable, and each slurmd sees its own host
name and /etc/hosts. The file system is shared, as on a cluster. Needs root and Linux namespaces. Nothing outlives
`stop()`, and what a killed owner left is removed by the next start.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.helpers import cluster as clusters

OWNER = "GLT_CABLES"
NETWORKS = Path("/run/netns")


def refused() -> str | None:
    """Return why such a cluster cannot run here, in a few words; None if it can."""
    package = clusters.missing_package() or next(
        (p for program, p in {"ip": "iproute2", "nsenter": "util-linux"}.items() if shutil.which(program) is None), None
    )
    if package:
        return f"needs {package} (make system, as root)"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "ip", "link", "add", "glt0", "type", "bridge"],
        capture_output=True,
        text=True,
    )
    return f"this machine allows no network namespaces: {tried.stderr.strip()}" if tried.returncode else None


class Cables(clusters.Cluster):
    """As Cluster, with nodes that can be cut off (`cut`, `heal`) and can die (`kill`, `boot`)."""

    def __init__(self, folder: Path, nodes: int = clusters.NODES) -> None:
        super().__init__(folder, nodes)
        self.marks[OWNER] = str(os.getpid())
        self.name = f"glt{os.getpid()}"  # of the bridge; with r1, r2 ... of the nodes' networks and cables
        self.network = f"198.18.{os.getpid() % 256}"  # a range that is kept for tests of networks
        self.address, self.port = f"{self.network}.254", clusters.free_ports(1)[0]

    def start(self) -> Cables:
        remove_leftovers()
        self.folder.mkdir(parents=True, exist_ok=True)
        hosts = ["127.0.0.1 localhost", *(f"{self.network}.{node} r{node}" for node in range(1, self.nodes + 1))]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        for node in range(1, self.nodes + 1):
            network = self._network(node)
            _ip("netns", "add", network)
            _ip("link", "add", network, "type", "veth", "peer", "name", "eth0", "netns", network)
            _ip("link", "set", network, "master", self.name, "up")
            _ip("-n", network, "address", "add", f"{self.network}.{node}/24", "dev", "eth0")
            for card in ("lo", "eth0"):
                _ip("-n", network, "link", "set", card, "up")
        super().start()
        return self

    def _network(self, node: int) -> str:
        return f"{self.name}r{node}"

    def _machines(self) -> str:
        nodes = f"r[1-{self.nodes}]"
        return f"NodeName={nodes} NodeHostname={nodes} NodeAddr={self.network}.[1-{self.nodes}] Port={self.port}"

    def boot(self, node: int) -> None:
        # Not `ip netns exec`: it mounts a new /sys, in which slurmd finds no cgroups.
        inside = [
            "nsenter",
            f"--net={NETWORKS / self._network(node)}",
            "unshare",
            "--uts",
            "--mount",
            "sh",
            "-c",
            f'mount --bind "$0" /etc/hosts && hostname r{node} && exec "$@"',
            str(self.folder / "hosts"),
        ]
        self._daemon("slurmd", "-N", f"r{node}", inside=inside)

    def processes(self, node: int) -> list[int]:
        """Return the ids of all processes on a node."""
        return _processes(self._network(node))

    def reaches(self, node: int) -> bool:
        """Return whether the node's slurmd answers within a second."""
        try:
            with socket.create_connection((f"{self.network}.{node}", self.port), timeout=1):
                return True
        except OSError:
            return False

    def cut(self, node: int) -> None:
        """Pull the node's cable: nothing on it ends, nothing reaches it."""
        _ip("link", "set", self._network(node), "down")

    def heal(self, node: int) -> None:
        """Plug it in again, and forget unanswered requests: this machine would retry them only a second later."""
        _ip("link", "set", self._network(node), "up")
        _ip("neigh", "flush", "to", f"{self.network}.{node}", "dev", self.name)

    def kill(self, node: int) -> None:
        """Let the node die: its slurmd, its steps and their tasks end at once and silently. `boot` brings it back."""
        while alive := self.processes(node):
            clusters.send(alive, signal.SIGKILL)

    def stop(self) -> None:
        super().stop()
        _remove(self.name)


def remove_leftovers() -> None:
    """End and remove what dead owners left behind."""
    for name in {match[1] for path in Path("/sys/class/net").iterdir() if (match := re.match(r"(glt\d+)", path.name))}:
        owner = name.removeprefix("glt")
        if not Path(f"/proc/{owner}").exists():
            clusters.send(clusters.marked(f"{OWNER}={owner}"), signal.SIGKILL)
            _remove(name)


def _remove(name: str) -> None:
    for path in NETWORKS.glob(f"{name}r*"):
        clusters.send(_processes(path.name), signal.SIGKILL)
        _ip("netns", "delete", path.name)
    for path in [*Path("/sys/class/net").glob(f"{name}r*"), *Path("/sys/class/net").glob(name)]:
        subprocess.run(
            ["ip", "link", "delete", path.name], capture_output=True
        )  # a cable may go by itself, with its network


def _processes(network: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", network).split()]


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
