"""How ranks find each other: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

from slurm import environment
from slurm.starting.rank_start import NODE_ADDRESSES


def export_rank() -> None:
    """Set the five variables from those of the SLURM job, whatever they were.

    A rank of `cluster=local` is in no job: its launcher has set them.
    """
    if "SLURM_PROCID" not in os.environ:
        return
    import submitit

    for name in environment.of_a_rank(os.environ):
        del os.environ[name]
    # The step's nodes are the job's but in a held allocation, where they may be some of them.
    for name in ("NODELIST", "NUM_NODES"):
        if of_step := os.environ.get(f"SLURM_STEP_{name}"):
            os.environ[f"SLURM_JOB_{name}"] = of_step
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    # Before torch is imported. Never more threads than cores, and none that spin while they wait: nodes may be shared.
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(min(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")), len(os.sched_getaffinity(0))))
    )
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MASTER_ADDR"] = _reachable(os.environ["MASTER_ADDR"])
    # submitit derives the port only from the job's id; a leftover of the incarnation before would still hold it.
    restart, step = (int(os.environ.get(f"SLURM_{name}", "0")) for name in ("RESTART_COUNT", "STEP_ID"))
    moved = int(os.environ["MASTER_PORT"]) - 20000 + 7919 * restart + 24729 * step  # steps share a held allocation
    os.environ["MASTER_PORT"] = str(20000 + moved % 40000)
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    # Starts share a log; what comes after this line is of this start (slurm/cluster/requeue.py looks for rank 0's).
    print(
        (
            f"start {restart} of job {environment.job_id()}: rank {os.environ['RANK']} of "
            f"{os.environ['WORLD_SIZE']}, meeting at {place}"
        ),
        file=sys.stderr,
        flush=True,
    )


def _reachable(node: str) -> str:
    """Return the node's name where it resolves, else the address that SLURM itself reaches it by.

    In a container, which may have no scontrol, the batch script has asked.

    Raises:
        RuntimeError: SLURM does not tell an address.
    """
    try:
        socket.getaddrinfo(node, None)
        return node
    except socket.gaierror:
        for told in os.environ.get(NODE_ADDRESSES, "").split():
            if told.startswith(f"{node}="):
                return told.partition("=")[2]
        words = ["scontrol", "show", "node", node]
        shown = subprocess.run(words, env=environment.clean(), capture_output=True, text=True, check=True).stdout
        if not (address := re.search(r"NodeAddr=(\S+)", shown)):
            raise RuntimeError(f"SLURM names no address of the node {node}") from None
        return address[1]
