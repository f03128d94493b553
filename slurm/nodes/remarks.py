"""What a user should know of where a run is: slow nodes, those left out, why it gave up, and a missing evaluator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from slurm.monitoring.events import since_launch
from slurm.monitoring.run_state import cluster_name, elsewhere, not_asked
from slurm.nodes.exclusion import FORGET_S, bad_nodes, reason_of


def remarks(name: str, events: Sequence[dict[str, Any]]) -> list[str]:
    """Say it in a sentence each, about the run as its events tell it; nothing of a run that is finished."""
    told = since_launch(events)
    if any(event["event"] == "finished" for event in told):
        return []
    if (cluster := elsewhere(events)) and cluster_name():  # without a name here, its nodes are known all the same
        return [f"{name}: its job is on cluster {cluster}, and {not_asked(events)}"]
    verdict = next((event for event in reversed(told) if event["event"] == "verdict"), None)
    if verdict and verdict["verdict"] == "give up" and verdict.get("reason"):
        return [f"{name} gave up: {verdict['reason']}"]
    starts = [event["incarnation"] for event in told if event["event"] == "start"]
    said = [
        f"{name}: node {event['node']} {reason_of(event)}"
        for event in told
        if event["event"] == "slow" and [event["incarnation"]] == starts[-1:]
    ]
    alone = [e for e in told if e["event"] == "evaluator" and [e["incarnation"]] == starts[-1:]]
    known = [e for e in alone if "epoch" not in e]  # those with an epoch are the ranks', which only miss it
    said += [f"{name}: {event['text']}" for event in (known or alone)[-1:]]
    excluded = verdict.get("excluded") if verdict else None
    if verdict and excluded:
        why = bad_nodes(events, slow_too=True, now=verdict["time"])
        until = time.strftime("%d %b %H:%M", time.localtime(verdict["time"] + FORGET_S))
        nodes = "; ".join(f"node {node}, which {why.get(node, 'was unfit')}" for node in excluded)
        said.append(f"{name} goes on without {nodes} (forgotten at the requeue after {until})")
    return said
