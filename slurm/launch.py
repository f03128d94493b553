"""The main command: `python slurm/launch.py recipe=glt_randaug_ifl nodes=4`.

  recipe=NAME|PATH   the table row, a file of recipes/; or the recipe.yaml of a run, to repeat it
  data=NAME          imagenet_glt (default), mscoco_glt, digits_glt, or a built data set of yours
  data.root=DIR      where data sets lie (default: data/ in the project)
  train=glt|cbl      training edition
  seed=N             or several runs: seeds=0,1,2  max_jobs=N at once; on SLURM they are job arrays, see docs/arrays.md
  pack=N             N runs side by side in each job, for small runs of one node
  again=yes          make again the runs that are there already; the old folders become NAME.old-1, ...
  table=NAME|PATH    instead of a recipe: all runs of recipes/tables/NAME.yaml or of a file of yours, first stages
                     first; an open table (clt_glt, alt, overall, parts, budgets) on the data sets of data=NAME,NAME
  grid=KEY:V,V+KEY:V,V  each of these runs once for each combination of the values: grid=optim.lr:.05,.1,.2
  preset=paper|corrected                                                  nodes=N  tasks_per_node=N
  cluster=slurm      submit to SLURM (default)
  cluster=local      run on this machine: a process for each task, on the CPU where there is no GPU
  cluster=here       inside salloc or an interactive job: run on its nodes at once, and wait (docs/debugging.md)
  cluster=dry        print the resolved recipe and the batch file, touch nothing
  site=NAME          which cluster of the site file, where it describes several
  runs=DIR           where run folders are made
  build=NAME         instead of a recipe: build a data set's shards, with the words of `python -m sharding.build`;
                     tasks=N parts at once

  check=nodes        looks at nodes=N nodes as a run does before its first step, and prints a table: the command to type
                     first on a new cluster; a short job that it waits for, or cluster=local

  eval=RUN           judges a finished run again, here, and writes its predictions again   select=last|best
                     data.root=DIR  where its data lie here, if the run comes from another machine
  export=RUN         writes a finished run's weights as safetensors to out=FILE            select=last|best
  tidy=show|yes      shows what nobody needs any more in runs=DIR, and with yes removes it: old code, checkpoints of
                     finished runs (not their weights), leftovers, submission files

Any value of the recipe can be set as section.key=value: optim.lr=0.2 schedule.epochs=10 ifl.environments=3 ifl=null.
Of a key given twice the last one counts. A second stage (cRT, LWS) brings its first, which takes over its model, data
and precision; first.KEY=VALUE sets the first's schedule, optim, augment, batch or ifl: first.schedule.epochs=3.
The same command again goes on where the run stopped, and does nothing if it is finished. After again=yes that is the
command without this word: with it, what was made since is set aside, too.
Recipes, data values, tables, methods and models of yours may lie in folders that GLT_PATH names: docs/your-folder.md.
What is true of your cluster (partition, account, ...) goes once into slurm/site.yaml: see slurm/site.example.yaml.
Any other option of sbatch is slurm.options.NAME=VALUE: slurm.options.reservation=ml slurm.options.exclusive=true.
"""

import sys
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not slurm/: its files must not stand in for modules
if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recipes.common import search_path
from recipes.common.addresses import PIPE
from recipes.common.cli import asks_help, take_words
from recipes.common.errors import DataError, PlanError, RecipeError
from recipes.common.output import ends_told, go_on_unread

if TYPE_CHECKING:  # a command imports only what its mode needs, so that it answers at once
    from recipes.schema import Recipe
    from slurm.cluster.build_job import Build
    from slurm.cluster.node_check import EarlierCheck, NodeCheck
    from slurm.planning.arrays import Array
    from slurm.planning.schedule import Run
    from slurm.reuse import Reuse
    from slurm.site_file import Site
    from slurm.upkeep.removal import Tidy

PROJECT = Path(__file__).resolve().parent.parent
OF_A_NETWORK = (
    *("data.image_size", "data.test_resize", "data.mean", "data.std"),
    *("batch.bn", "batch.micro"),
)
"""What may follow from the configuration of a network of timm or torchvision: `cluster=dry` names its origin."""


@dataclass(frozen=True)
class Training:
    """A command that trains.

    Attributes:
        runs: each once, and after those that it builds on.
        at_once: how many may be under way at once; None leaves it to where they run.
        site: this machine's site file.
        said: what the user should know of the whole.
        pack: how many runs share a job of SLURM's.
    """

    runs: "Sequence[Run]"
    at_once: int | None
    site: "Site"
    said: tuple[str, ...] = ()
    pack: int = 1

    @property
    def cluster(self) -> str:
        """Where the runs go: slurm, local, here or dry."""
        return self.runs[0].recipe.cluster

    @property
    def remarks(self) -> list[str]:
        """What the user should know of the whole and of single runs, each remark once."""
        from recipes.folders import place_aside
        from slurm.monitoring.commits import other_commits
        from slurm.monitoring.several import alike
        from slurm.planning import archived_runs
        from slurm.run_folder import other_code

        said = [
            *self.said,
            *self.site.unmet([run.recipe for run in self.runs]),
            *archived_runs.remarks(self.runs),
            *(f"{run.recipe.recipe} runs {run.remark}" for run in self.runs if run.remark),
        ]
        kept = [run for run in self.runs if not run.again]
        other = ((run.folder.name, other_code(run.recipe, run.folder)) for run in kept)
        said += [f"{who} {what}" for who, _, what in alike(other)]
        again = [run.folder for run in self.runs if run.sets_aside]
        said += [
            f"{who} {verb} made again, and what is there gets {suffix} behind its name"
            for who, verb, suffix in alike((folder.name, place_aside(folder).suffix) for folder in again)
        ]
        said.append(other_commits(run.folder for run in kept))
        return list(dict.fromkeys(filter(None, said)))


def main(words: list[str]) -> int:
    """Do what a command says; returns the exit code."""
    if asks_help(words):
        return _help()
    from slurm import site_file

    try:
        chosen, words = take_words(words, ("site",))
        site = site_file.load(chosen.get("site"))
        command = parse(words, site)
        if not isinstance(command, Training):
            return command.run()
        return {"dry": _show, "local": _run_here, "here": _run_here, "slurm": _submit}[command.cluster](command)
    except (RecipeError, DataError) as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written
        print(f"launch.py: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2


def parse(words: Sequence[str], site: "Site") -> "Reuse | Build | Tidy | NodeCheck | EarlierCheck | Training":
    """Read a command once, and refuse it where it cannot be done; nothing is written or started.

    Raises:
        RecipeError: a word or a recipe is not legal.
        DataError: a word of a build is not legal.
    """
    from slurm import reuse
    from slurm.cluster.sbatch_help import refuse_unknown

    if reuse.asks(words):
        return reuse.parse(words, site)
    if any(word.startswith("tidy=") for word in words):
        from slurm.upkeep import removal

        return removal.parse(words, site)
    if any(word.startswith("build=") for word in words):
        from slurm.cluster import build_job

        return build_job.parse_command(words, site)
    if any(word.startswith("check=") for word in words):
        from slurm.cluster import node_check

        return node_check.parse_command(words, site)
    from slurm.planning.archived_runs import marked
    from slurm.planning.requested_runs import requested_runs
    from slurm.planning.start_check import start_fault

    asked = requested_runs(words, site)
    if any(run.recipe.cluster != "local" for run in asked.runs):
        site.refuse_no_cluster()
        refuse_unknown(name for run in asked.runs for name in run.recipe.slurm.options)
    for run in asked.runs:
        _check_batch(run.recipe)
        lacking = run.recipe.log.lacking() or run.recipe.optim.lacking() or run.recipe.model.lacking()
        if lacking:
            raise RecipeError(lacking)
        _check_profile(run)
        misfit = start_fault(run.recipe)
        if misfit:
            raise RecipeError(misfit)
    runs = [replace(run, command=tuple(sys.argv)) for run in marked(asked.runs, site.own.get("archive"))]
    return Training(runs, asked.at_once, site, asked.said, asked.pack)


# -------------------------------------------------------------------------------------------------------------- modes
def _help() -> int:
    print((__doc__ or "").strip())
    try:
        print("\nrecipes: " + ", ".join(sorted(search_path.files(search_path.RECIPES))))
        print(f"{search_path.VARIABLE}: {':'.join(map(str, search_path.folders())) or 'not set'}")
    except RecipeError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    return 0


def _show(command: Training) -> int:
    """Print what would be made, and what it would cost: `cluster=dry`."""
    from recipes.resolve import dump
    from slurm.cluster import submission
    from slurm.planning.arrays import one_job

    runs, site = command.runs, command.site
    own = [f"{search_path.VARIABLE}: {':'.join(map(str, search_path.folders()))}"] if search_path.folders() else []
    said = [f"site file: {site.named(run.recipe for run in runs)}", *own, *_estimates(runs), *submission.remarks(runs)]
    comments = [f"# {line}" for line in (*said, *command.remarks, *_origins(command))]
    if len(runs) > 1:
        plan, arrays = submission.preview(runs, command.at_once, site, command.pack)
        print(*comments, plan, sep="\n")
        # Plain jobs may be hundreds, so one stands for all of them; arrays are a handful.
        alone = [array for array in arrays if array.alone]
        for array in [*(array for array in arrays if not array.alone), *alone[:1]]:
            print("", *_batch_file(command, array), sep="\n")
        if len(alone) > 1:
            print(f"# the other {len(alone) - 1} plain jobs have such files, too: `seed=` and `recipe=` show one")
        return 0
    print(f"# {runs[0].folder}", *comments, dump(runs[0].recipe), *_batch_file(command, one_job(runs[0])), sep="\n")
    return 0


def _batch_file(command: Training, array: "Array") -> list[str]:
    """Return a batch file, with where its `#SBATCH` lines come from before it."""
    from slurm.cluster import submission
    from slurm.cluster.origins import by_origin
    from slurm.code_snapshot import place

    first = array.runs[0]
    job = submission.job_of(array, place(first.folder.parent), command.site)
    origins = _merged(command, first)
    beside = submission.evaluator_text(array, command.site, origins)
    said = (f"batch file of {job.name}", *by_origin(job, origins))
    return [*(f"# {line}" for line in said), job.text(), *beside]


def _merged(command: Training, run: "Run") -> dict[str, str]:
    """Return where the values of a run come from, by their dotted keys."""
    from recipes.resolve import merge

    return merge(run.words, command.site.slurm, str(command.site.path))[1]


def _origins(command: Training) -> list[str]:
    """Say which values come from the data sets' own dataset.json; of several runs, which data sets have such values.

    With a network of a library also where its images' values come from.
    """
    from recipes.backbones.facts import library_of
    from recipes.common.addresses import is_remote
    from recipes.dataset_values import described

    sets = dict.fromkeys((run.recipe.data_root, run.recipe.data.name) for run in command.runs)
    found = {name: described(root, name) for root, name in sets if not is_remote(root)}
    saying = {name: said.origin for name, said in found.items() if said and said.values}
    if len(command.runs) > 1:
        return [f"values of {name} are in {origin}" for name, origin in saying.items()]
    origins = _merged(command, command.runs[0])
    keys: dict[str, list[str]] = {}
    shown = OF_A_NETWORK if library_of(command.runs[0].recipe.model.name) else ()
    for key, origin in sorted(origins.items()):
        told = key in shown or origin.endswith(tuple(saying.values()))
        if told and not any(other.startswith(f"{key}.") for other in origins):
            keys.setdefault(origin, []).append(key)
    return [f"from {origin}: {', '.join(names)}" for origin, names in keys.items()]


def _run_here(command: Training) -> int:
    """Run until all runs have ended, on this machine (`cluster=local`) or in an allocation (`cluster=here`)."""
    from slurm.cluster.held_allocation import beginner
    from slurm.local.run_queue import run_all

    begin = beginner(command.runs, command.site) if command.cluster == "here" else None
    go_on_unread(anyhow=True)
    _announce(command)
    _look_after(command)
    return run_all(command.runs, _checker(command.site), command.at_once, begin, command.site.own)


def _submit(command: Training) -> int:
    """Put the runs into the queue: `cluster=slurm`."""
    from slurm.cluster import submission

    _announce(command)
    _look_after(command)
    submission.submit_all(command.runs, command.at_once, command.site, _checker(command.site), command.pack)
    return 0


def _announce(command: Training) -> None:
    """Say what several runs cost, and what the user should know of them, if they can be made."""
    from slurm.run_folder import refuse_under_way

    refuse_under_way(run.folder for run in command.runs if run.again)
    costs = [_cost(command.runs)] if len(command.runs) > 1 else []
    for line in (*costs, *command.remarks):
        print(line, flush=True)


def _look_after(command: Training) -> None:
    """Put back what only the archive holds, and archive what is finished and not there."""
    from slurm.planning import archived_runs

    archived_runs.put_back(command.runs)
    archived_runs.keep_finished(command.runs, command.site.own.get("archive"))


# --------------------------------------------------------------------------------------------------- costs and checks
def _estimates(runs: "Sequence[Run]") -> list[str]:
    """Estimate what a plan would cost, where the data are here to be counted."""
    from slurm.planning.cost import cost
    from slurm.planning.forecast import forecast

    try:
        return [*([str(cost(runs))] if len(runs) > 1 else []), *forecast(runs)]
    except DataError as error:
        return [f"{'cost' if len(runs) > 1 else 'hours'} unknown: {error}"]


def _cost(runs: "Sequence[Run]") -> str:
    """Say what runs cost that are to be made. A command that brings the data may fail here, see `_check_data`."""
    from slurm.planning.cost import cost

    try:
        return str(cost(runs))
    except DataError as error:
        if runs[0].recipe.data_root != PIPE:
            raise
        return f"cost unknown: {error}"


def _checker(site: "Site") -> "Callable[[Recipe], None]":
    """Return what refuses a recipe whose data are not there."""
    return lambda recipe: _check_data(recipe, site.for_run(recipe).pipe)


def _check_data(recipe: "Recipe", pipe: str | None = None) -> None:
    """Find data that are not there before the queue, and not after it.

    The site file's command that brings them (`pipe`) may need what its setup lines load, which run on the nodes only:
    then a failure here is a warning.
    """
    lenient = recipe.data_root == PIPE and recipe.cluster != "local"
    _check_set(recipe.data_root, recipe.data.name, pipe, lenient)


@functools.cache  # a table's runs share theirs
def _check_set(root: str, name: str, pipe: str | None, lenient: bool) -> None:
    from slurm.planning.cost import opened

    try:
        opened(root, name, pipe)
    except DataError as error:
        if not lenient:
            raise
        print(
            f"launch.py: warning: {error}; the site file's setup lines, which do not run here, may mend it on the "
            "nodes",
            file=sys.stderr,
            flush=True,
        )


def _check_batch(recipe: "Recipe") -> None:
    """Find a number of ranks that cannot share the batch before the queue, and not after it.

    On GPUs ranks may share a group. Whether there are GPUs is known here for a local run or where the recipe asks for
    none, and otherwise only on the nodes.
    """
    from sharding.plan.epoch import BatchShape
    from sharding.plan.ranks import micro_batches

    asked, here = recipe.slurm.gpus or 0, recipe.tasks // recipe.nodes
    if recipe.cluster != "local" and 0 < asked < here:
        raise RecipeError(
            f"tasks_per_node={here} with slurm.gpus_per_node={asked} would put two processes on one GPU, which NCCL "
            f"refuses: at most {asked} is legal, and the default"
        )
    gpus = recipe.slurm.gpus != 0 if recipe.cluster != "local" else shutil.which("nvidia-smi") is not None
    try:
        batch = recipe.batch
        shape = BatchShape(batch.size, batch.group, recipe.streams, batch.bn_by == "env", batch.group_key)
        micro_batches(shape, 0, recipe.tasks, synchronised=gpus or not batch.bn)
    except PlanError as error:
        raise RecipeError(f"nodes={recipe.nodes} with {recipe.tasks // recipe.nodes} tasks a node: {error}") from None


def _check_profile(run: "Run") -> None:
    """Refuse to profile steps that a run has not, where its data are here to be counted; else its ranks do."""
    profiled = run.recipe.log.profiled
    if profiled is None or not run.recipe.trains or not run.is_to_make:
        return
    from slurm.planning.cost import steps_of

    try:
        steps = steps_of(run)
    except DataError:
        return
    if profiled[1] > steps:
        epochs = run.recipe.schedule.epochs
        raise RecipeError(
            f"log.profile={run.recipe.log.profile}: {run.folder.name} has {steps} steps, {epochs} epochs of "
            f"{steps // epochs}, so up to {steps} is legal"
        )


if __name__ == "__main__":
    go_on_unread()
    sys.exit(ends_told("launch.py", lambda: main(sys.argv[1:])))
