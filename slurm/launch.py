"""The main command: `python slurm/launch.py recipe=glt_randaug_ifl nodes=4`.

  recipe=NAME|PATH   the table row, a file of recipes/; or the recipe.yaml of a run, to repeat it
  data=NAME          imagenet_glt (default), mscoco_glt, digits_glt       data.root=DIR  where it lies
  train=glt|cbl      training edition                                     seed=N  or several runs: seeds=0,1,2  max_jobs=N at once
  table=NAME         instead of a recipe: all runs of recipes/tables/NAME.yaml, first stages first
  preset=paper|corrected                                                  nodes=N  tasks_per_node=N
  cluster=slurm      submit to SLURM (default)
  cluster=local      run here: a process for each task, on the CPU where there is no GPU
  cluster=dry        print the resolved recipe and the batch file, touch nothing
  runs=DIR           where run folders are made
  build=NAME         instead of a recipe: build a data set's shards, with the words of `python -m sharding.build`; tasks=N parts at once

  eval=RUN           judges a finished run again, here, and writes its predictions anew    select=last|best
  export=RUN         writes a finished run's weights as safetensors to out=FILE            select=last|best

Any value of the recipe can be set as section.key=value: optim.lr=0.2 schedule.epochs=10 ifl.environments=3 ifl=null.
Of a key given twice the last one counts.
The same command again goes on where the run stopped, and does nothing if it is finished.
What is true of your cluster (partition, account, ...) goes once into slurm/site.yaml: see slurm/site.example.yaml.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == PROJECT / "slurm":
    sys.path[0] = str(PROJECT)  # not slurm/: its files must not stand in for installed modules

from recipes.common.addresses import PIPE  # noqa: E402 (found by the line above)
from recipes.common.cli import asks_help  # noqa: E402
from recipes.common.errors import DataError, PlanError, RecipeError  # noqa: E402


def main(words: list[str]) -> int:
    if asks_help(words):
        print(__doc__.strip())
        print("\nrecipes: " + ", ".join(sorted(path.stem for path in (PROJECT / "recipes").glob("*.yaml"))))
        return 0
    from recipes.resolve import dump
    from sharding.cache.remote_files import COMMAND
    from slurm import reuse, site_file
    from slurm.cluster import submission
    from slurm.planning.requested_runs import wanted

    try:
        here = site_file.load()
        if here.pipe:
            os.environ[COMMAND] = here.pipe  # data may come by this command, and by no other
        if reuse.asks(words):
            return reuse.command(words, here)
        if any(word.startswith("build=") for word in words):
            from slurm.cluster.build_job import launch

            return launch(words, here)
        runs, at_once = wanted(words, here)
        first = runs[0]
        for run in runs:
            _check_batch(run.recipe)
            if lacking := run.recipe.log.lacking():
                raise RecipeError(lacking)
        remarks = dict.fromkeys(f"{run.recipe.recipe} runs {run.remark}" for run in runs if run.remark)
        if first.recipe.cluster == "dry":
            if len(runs) > 1:
                print(
                    f"# site file: {here.path or 'none'}",
                    *(f"# {line}" for line in (*_estimates(runs), *remarks)),
                    submission.preview(runs, at_once),
                    sep="\n",
                )
                return 0
            from slurm.cluster.sbatch import batch_file
            from slurm.code_snapshot import place

            print(
                f"# {first.folder}\n# site file: {here.path or 'none'}",
                *(f"# {line}" for line in _estimates(runs)),
                dump(first.recipe),
                sep="\n",
            )
            print(batch_file(first.recipe, first.folder, place(first.folder.parent), here.setup))
            return 0
        os.environ["GLT_ARGV"] = json.dumps(sys.argv)  # for the run's meta.json: the job's own words are others
        if len(runs) > 1:
            print(_cost(runs), *remarks, sep="\n", flush=True)
        if first.recipe.cluster == "local":
            from slurm.local.run_queue import run_all

            return run_all(runs, _check_data, at_once)
        submission.submit_all(runs, at_once, here, _check_data)
        return 0
    except (RecipeError, DataError) as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written
        print(f"launch.py: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2


def _estimates(runs) -> list[str]:
    """What a plan would cost, where the data are here to be counted."""
    from slurm.planning.cost import cost
    from slurm.planning.forecast import forecast

    try:
        return [*([str(cost(runs))] if len(runs) > 1 else []), *forecast(runs)]
    except DataError as error:
        return [f"{'cost' if len(runs) > 1 else 'hours'} unknown: {error}"]


def _cost(runs) -> str:
    """Of runs to be made. Where a command brings the data, it may fail here; see `_check_data`."""
    from slurm.planning.cost import cost

    try:
        return str(cost(runs))
    except DataError as error:
        if runs[0].recipe.data_root != PIPE:
            raise
        return f"cost unknown: {error}"


def _check_data(recipe) -> None:
    """Data that are not there are found before the queue, not after it; where a command brings them, it may need what the site file's setup lines load on the nodes alone."""
    _check_set(recipe.data_root, recipe.data.name, lenient=recipe.data_root == PIPE and recipe.cluster != "local")


@functools.cache  # a table's runs share theirs
def _check_set(root, name, lenient) -> None:
    from slurm.planning.cost import opened

    try:
        opened(root, name)
    except DataError as error:
        if not lenient:
            raise
        print(
            f"launch.py: warning: {error}; the site file's setup lines, which do not run here, may mend it on the nodes",
            file=sys.stderr,
            flush=True,
        )


def _check_batch(recipe) -> None:
    """So is a number of ranks that cannot share the batch. On GPUs ranks may share a group; whether there are some is
    known here for a local run or where the recipe asks for none, and else only on the nodes."""
    from sharding.plan.ranks import micro_batches

    gpus = recipe.slurm.gpus_per_node != 0 if recipe.cluster != "local" else shutil.which("nvidia-smi") is not None
    try:
        micro_batches(
            recipe.batch.size,
            recipe.batch.bn,
            0,
            recipe.tasks,
            synchronised=gpus,
            streams=recipe.streams if recipe.batch.bn_by == "mix" else 1,
        )
    except PlanError as error:
        raise RecipeError(f"nodes={recipe.nodes} with {recipe.tasks // recipe.nodes} tasks a node: {error}") from None


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends quietly
    from recipes.common.venv import in_environment

    in_environment()
    sys.exit(main(sys.argv[1:]))
