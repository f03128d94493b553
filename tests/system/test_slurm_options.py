"""On a real SLURM: options of the site file reach the job, and ranks find their GPUs however SLURM binds them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recipes.sbatch.options import SIGNS
from recipes.schema import PROJECT
from slurm import site_file
from slurm.cluster.batch_job import BatchJob
from slurm.cluster.sbatch import parameters
from slurm.planning.requested_runs import requested_runs
from tests.helpers import cluster as clusters
from tests.helpers.jobs import Place, wait

GPUS = 2
"""Of a node: character devices that nothing opens."""


class WithGpus(clusters.Cluster):
    """A cluster whose nodes have GPUs of the type a100, as far as SLURM can tell."""

    def _machines(self) -> str:
        lines = ["AutoDetect=off"]
        for number in range(GPUS):
            path = self.folder / f"nvidia{number}"
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            lines.append(f"NodeName=r[1-{self.nodes}] Name=gpu Type=a100 File={path}")
        (self.folder / "gres.conf").write_text("\n".join([*lines, ""]))
        return f"GresTypes=gpu\n{super()._machines()} Gres=gpu:a100:{GPUS}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithGpus]:
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = WithGpus(tmp_path_factory.mktemp("slurm"), nodes=2)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        ({"gpus_per_node": "a100:2"}, [{"0", "1"}, {"0", "1"}]),
        ({"options": {"gres": "gpu:a100:2", "gpu-bind": "single:1"}}, [{"0"}, {"1"}]),
    ],
    ids=["typed", "gres, bound"],
)
def test_options_reach_the_job_and_gpus_its_ranks(
    cluster: WithGpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, object],
    visible: list[set[str]],
) -> None:
    """scontrol shows the comment with every sign that is legal, and the excluded node, which the job keeps off; its two
    ranks see all of the node's GPUs, or each its own alone."""
    comment = f"long tails {SIGNS} end"
    more: dict[str, object] = dict(asked.pop("options", {}))  # type: ignore[call-overload]
    own = {"comment": comment, "exclude": "r[1]", "mail-type": "FAIL", **more}
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"partition": "low", **asked, "options": own, "runs": str(tmp_path / "runs")}))
    for name, value in {**cluster.environment, "GLT_SITE": str(path), "SBATCH_EXCLUSIVE": "user"}.items():
        monkeypatch.setenv(name, value)
    site = site_file.load()
    (run,) = requested_runs(["data=digits_glt", "slurm.cpus_per_task=2", "slurm.options.exclusive=true"], site).runs
    folder = run.recipe.run_folder
    (folder / "log").mkdir(parents=True)
    given = parameters(run.recipe, folder, PROJECT, site.for_run(run.recipe).setup)
    job = BatchJob(folder / "log", (Place(str(folder)),), given).submit()
    ranks = [folder / f"rank-{rank}.json" for rank in range(GPUS)]
    wait(lambda: all(path.exists() and path.read_text() for path in ranks), 30, "the ranks", cluster, folder)
    shown = cluster.run("scontrol", "show", "job", str(job)).stdout
    for said in (f"Comment={comment}", "ExcNodeList=r1\n", " NodeList=r2\n", "OverSubscribe=NO"):
        assert said in shown, shown
    told = [json.loads(path.read_text())["variables"] for path in ranks]
    assert [set(one["CUDA_VISIBLE_DEVICES"].split(",")) for one in told] == visible
    assert [one["LOCAL_RANK"] for one in told] == ["0", "1"]
