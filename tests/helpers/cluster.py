"""A private SLURM on this machine, from Debian's slurm-wlm and munge: several `slurmd -N`, their own ports and folders.

`python -m tests.helpers.cluster up|down [FOLDER]` (make cluster, make cluster-down) starts and ends one to play with.
Needs root. Nothing of it outlives `stop()`: daemons, jobs and the folder go.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

NODES = 4
MARK = "GLT_CLUSTER"
PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge"}

CONF = """\
ClusterName=glt
SlurmctldHost=localhost({address})
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{machines} CPUs=16 RealMemory=64000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=lowgrace Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def missing_package() -> str | None:
    """Return the Debian package that this machine lacks, or 'root' if the user is not root; None if all is there."""
    if os.geteuid() != 0:
        return "root"
    return next((package for program, package in PROGRAMS.items() if not _program(program)), None)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Cluster:
    """A running cluster. `environment` makes sbatch, squeue and scontrol talk to it."""

    address = "127.0.0.1"

    def __init__(self, folder: Path, nodes: int = NODES, task_plugin: str = "task/none", options: str = "") -> None:
        self.folder, self.nodes, self.task_plugin, self.options = folder, nodes, task_plugin, options
        self.marks = {
            MARK: str(folder)
        }  # only in the daemons' environment: a user's shell, which has SLURM_CONF too, is not ours
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }

    def start(self) -> Cluster:
        package = missing_package()
        assert package is None, f"a cluster needs {package}"
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        conf = CONF.format(
            folder=self.folder,
            controller=free_ports(1)[0],
            address=self.address,
            machines=self._machines(),
            task_plugin=self.task_plugin,
        )
        (self.folder / "slurm.conf").write_text(conf + self.options)
        self._daemon(
            "munged",
            "--force",
            f"--socket={self.folder}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/munge.seed",
        )
        self._daemon("slurmctld")
        for node in range(1, self.nodes + 1):
            self.boot(node)
        deadline = time.monotonic() + 30
        while self.run("sinfo", "-h", "-t", "idle", "-p", "high", "-o", "%D").stdout.strip() != str(self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the cluster did not start; see {self.folder}/log: {self.run('sinfo', '-N').stdout}"
                )
            time.sleep(0.2)
        return self

    def _machines(self) -> str:
        """Return slurm.conf's lines for the nodes: all are this machine, with different ports."""
        first = _consecutive_ports(self.nodes)
        return (
            f"NodeName=r[1-{self.nodes}] NodeHostname=localhost NodeAddr={self.address} "
            f"Port=[{first}-{first + self.nodes - 1}]"
        )

    def boot(self, node: int) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-N", f"r{node}")

    def _daemon(self, name: str, *arguments: str, inside: Sequence[str] = ()) -> None:
        subprocess.run(
            [*inside, _program(name), *arguments],
            env={**os.environ, **self.environment, **self.marks},
            check=True,
            timeout=30,
            stdout=subprocess.DEVNULL,
        )

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess:
        """Run a SLURM command on this cluster."""
        return subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=timeout
        )

    def stop(self) -> None:
        """End jobs and daemons in any state, and remove the folder."""
        try:
            self.run("scancel", "--full", "-u", "root", timeout=10)
            time.sleep(1)
        except subprocess.TimeoutExpired:
            pass
        for sign in (signal.SIGTERM, signal.SIGKILL):
            send(self._processes(), sign)
            deadline = time.monotonic() + 8
            while self._processes() and time.monotonic() < deadline:
                time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """Return the ids of the daemons, which carry the mark, their descendants, the steps and their tasks."""
        return sorted({*marked(f"{MARK}={self.folder}"), *of_steps(self.folder / "slurm.conf")})


def marked(variable: str) -> list[int]:
    """Return the ids of live processes with this NAME=VALUE in their environment, and of their descendants."""
    return _with_descendants(lambda variables: variable.encode() in variables)[0]


def of_steps(conf: Path) -> list[int]:
    """Return the ids of the live processes of a cluster's jobs, with the slurmstepd above them.

    From 23.11 on a slurmstepd has neither the daemons' environment nor one of them as its parent.
    """

    def in_a_job(variables: list[bytes]) -> bool:
        return f"SLURM_CONF={conf}".encode() in variables and any(v.startswith(b"SLURM_JOB_ID=") for v in variables)

    found, parents = _with_descendants(in_a_job)
    above = {parents[pid] for pid in found if pid in parents} - set(found)
    return sorted({*found, *(pid for pid in above if _name(pid) == "slurmstepd")})


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _with_descendants(chosen: Callable[[list[bytes]], bool]) -> tuple[list[int], dict[int, int]]:
    """Return the ids of live processes whose environment is chosen, and their descendants'; each process's parent."""
    parents, ours = {}, set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z":
                    continue
                parents[int(entry.name)] = int(parent)
                if chosen((entry / "environ").read_bytes().split(b"\0")):
                    ours.add(int(entry.name))
            except OSError:
                continue
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in ours and pid not in ours}
        ours |= more
        grown = bool(more)
    return sorted(ours), parents


def send(pids: Iterable[int], sign: signal.Signals) -> None:
    """Send a signal to those of the processes that are still alive."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


def _consecutive_ports(count: int) -> int:
    for _ in range(100):
        first = free_ports(1)[0]
        probes = []
        try:
            for port in range(first, first + count):
                probes.append(socket.socket())
                probes[-1].bind(("127.0.0.1", port))
            return first
        except (OSError, OverflowError):
            continue
        finally:
            for probe in probes:
                probe.close()
    raise RuntimeError(f"no {count} free ports in a row")


if __name__ == "__main__":
    action, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "/tmp/glt-cluster")
    if action == "up":
        if lacks := missing_package():
            sys.exit(f"a cluster needs {lacks} (make system, as root)")
        if Cluster(folder)._processes():
            sys.exit(
                f"a cluster is already up in {folder}: export SLURM_CONF={folder}/slurm.conf, or make cluster-down"
            )
        Cluster(folder).start()
        print(f"four nodes are up; let this shell talk to them:\n  export SLURM_CONF={folder}/slurm.conf")
    else:
        Cluster(folder).stop()
