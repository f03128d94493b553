"""What follows a run's end on a real SLURM: notices, the end of a command, the archive."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from recipes.resolve import resolve
from slurm.after_run import archive
from slurm.monitoring import events
from tests.helpers import cluster as clusters
from tests.helpers.jobs import launched, wait
from tests.helpers.launching import stub

WORDS = [
    *("recipe=glt_baseline", "data=digits_glt", "schedule.epochs=2", "batch.size=32", "batch.bn=16", "log.every=1"),
    *("slurm.cpus_per_task=1", "slurm.gpus_per_node=0"),
]
SECRET = "S3CRET"


@pytest.mark.full
def test_ends_are_told_once_and_runs_are_archived(cluster: clusters.Cluster, tiny_root: Path, tmp_path: Path) -> None:
    """Of three seeds on a real SLURM, of which one fails three times, each end is told as it is, and the command's end
    once; the finished ones are in the archive with their weights; no secret is in what SLURM keeps or the runs hold;
    and after a purge the same command trains nothing."""
    runs, place, file, site = (tmp_path / name for name in ("runs", "archive", "told", "site.yaml"))
    place.mkdir()
    stub(tmp_path, "tell", f'cat >> "{file}"')
    notify = json.dumps([str(tmp_path / "tell"), SECRET])
    site.write_text(f"notify: {notify}\narchive: {{folder: {place}, weights: true}}\npartition: low\nmem: 512M\n")
    words = [*WORDS, f"data.root={tiny_root}", f"runs={runs}", "seeds=0,1,2"]
    folders = [resolve([*WORDS, f"runs={runs}", f"seed={seed}"]).run_folder for seed in range(3)]
    (folders[2] / "ckpt").mkdir(parents=True)
    (folders[2] / "ckpt" / "step-000000001").mkdir()  # history without a whole checkpoint: each start refuses
    shell = {**cluster.environment, "GLT_SITE": str(site)}
    jobs = re.findall(r"job: (\S+)", launched(words, shell))

    def told() -> list[dict[str, object]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    kept = "".join(cluster.run("scontrol", "write", "batch_script", job, "-").stdout for job in jobs)
    assert SECRET not in kept
    wait(lambda: any(one["event"] == "all ended" for one in told()), 240, "the command's end", cluster, folders[2])
    ends = [(one["event"], one.get("run")) for one in told()]
    assert sorted(ends, key=str) == sorted(
        [
            *(("finished", folder.name) for folder in folders[:2]),
            *[("failed", folders[2].name)] * 2,
            ("given up", folders[2].name),
            ("all ended", None),
        ],
        key=str,
    )
    assert all("holds no whole checkpoint" in str(one["error"]) for one in told() if one["event"] == "given up")
    wait(lambda: len(list(place.glob("[!.]*/done"))) == 2, 60, "the archive", cluster, folders[0])
    assert all(archive.has_weights(place / folder.name) for folder in folders[:2])
    holding = [path for path in runs.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == [runs / ".site.json"]
    for folder in folders[:2]:
        os.rename(folder, tmp_path / folder.name)
    said = launched([*words[:-1], "seeds=0,1"], shell)
    assert said.count(": put back from") == 2 and said.count("is finished: nothing to do") == 2 and "job: " not in said
    assert [event["event"] for event in events.read(folders[0])].count("start") == 1
