"""A job as sbatch gets it, from a run or from a stage of a build: its file, its pickles, and the id that SLURM gave it.

All files of a job are in its folder before SLURM hears of it, under names that hold no id, and the batch script finds
them there. Nothing is read out of what sbatch prints, which sites wrap and decorate: SLURM itself is asked for the
id, by the folder of the job's batch file, or by its name.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.common.files import replacing, write_whole
from slurm import environment
from slurm.code_snapshot import copied_folders
from slurm.monitoring.run_state import Job, is_in, main_id, queue
from slurm.starting.interpreter import PYTHON
from slurm.starting.lacking_node import AFTER_SETUP, BEFORE_SETUP, ends, or_lacks

ID_S = 30.0
"""How long SLURM is asked for the id of a job that it took."""
TIMEOUTS = 1000
"""How often submitit puts a job back that met its time limit; a run's own batch script decides about that itself."""


@dataclass(frozen=True)
class BatchJob:
    """A job for sbatch.

    Attributes:
        folder: where its files and logs lie; jobs with other folders may have the same name.
        calls: what it calls; several make an array.
        parameters: submitit's.
        options: those of sbatch that are decided, beside the parameters.
        python: shell words that start a rank's Python.
        last: shell lines just before the ranks start.
        lacks: the shell function that is called where the node lacks what the job needs.
    """

    folder: Path
    calls: Sequence[Callable[[], Any]]
    parameters: dict[str, Any]
    options: tuple[str, ...] = ()
    python: str = PYTHON
    last: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ends()

    @property
    def name(self) -> str:
        return str(self.parameters["job_name"])

    @property
    def decided(self) -> tuple[str, ...]:
        """The options of sbatch that a shell's variables must not decide."""
        more = (name.replace("-", "_") for name in self.parameters.get("additional_parameters", ()))
        return (*self.parameters, *more, *self.options)

    @property
    def logs(self) -> Path:
        """Where logs and pickles of one call lie, with SLURM's signs (%A, %a) for what an element of an array is."""
        return self.folder

    @property
    def pickles(self) -> dict[Path, Callable[[], Any]]:
        """The files of the calls."""
        return {self.folder / self._pickle(str(number)): call for number, call in enumerate(self.calls)}

    def text(self) -> str:
        """Return the batch file."""
        from submitit.slurm.slurm import _make_sbatch_string

        parameters = dict(self.parameters)
        # submitit would take the signal from a variable of the shell, and writes a key of its own for the accounting.
        more = {**parameters.pop("additional_parameters"), "signal": f"USR2@{parameters['signal_delay_s']}"}
        parameters |= {"wckey": None, "setup": self.setup()}
        return _make_sbatch_string(
            command=self.command(),
            folder=self.logs,
            map_count=len(self.calls) if self.is_array else None,
            additional_parameters=more,
            **parameters,
        )

    @property
    def is_array(self) -> bool:
        return len(self.calls) > 1

    def command(self) -> str:
        """Return what srun runs."""
        return f"{self.python} -u -m submitit.core._submit {shlex.quote(str(self.logs))}"

    def setup(self) -> list[str]:
        """Return the lines before it: the last ones give the pickle the name by which submitit looks for it."""
        job = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if self.is_array else "${SLURM_JOB_ID}"
        return [
            *self.lacks,
            *self.parameters["setup"],
            f"log={shlex.quote(str(self.folder))}",
            link_line(job, self._pickle("${SLURM_ARRAY_TASK_ID}")),
            *self.last,
        ]

    def submit(self) -> str | None:
        """Hand it to SLURM, and return its id; None where SLURM took it and does not tell.

        Raises:
            RecipeError: SLURM refuses the job, or does not answer.
        """
        from submitit.core.utils import DelayedSubmission

        for place, call in self.pickles.items():
            delayed = DelayedSubmission(call)
            delayed.set_timeout(self.parameters["time"], TIMEOUTS)
            with replacing(place) as path:
                delayed.dump(path)
        file = self.folder / f"{self.name}.sh"
        write_whole(file, self.text())
        if (known := queue()) is None:  # then an older job of this folder would be taken for the new one
            raise RecipeError(f"SLURM does not answer (squeue), so {self.name} was not submitted")
        before = {main_id(job) for job in known}
        said = subprocess.run(
            ["sbatch", str(file)], env=environment.for_sbatch(self.decided), capture_output=True, text=True
        )
        deadline = time.monotonic() + (0 if said.returncode else ID_S)  # one that was refused may be there all the same
        while (job := self._id(before)) is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if said.returncode and job is None:
            words = (said.stderr.strip() or said.stdout.strip() or f"code {said.returncode}").splitlines()
            raise RecipeError(f"sbatch refused {self.name}: {words[-1]}")
        return job

    def holds(self, job: Job) -> bool:
        """Say whether the batch file of a job is this one's, by its folder."""
        return is_in(self.folder, job)

    def _pickle(self, part: str) -> str:
        return f"{self.name}-{part}.pkl" if self.is_array else f"{self.name}.pkl"

    def _id(self, before: Collection[str]) -> str | None:
        """Ask SLURM which new job has a batch file in our folder, whatever a site's plugin named it.

        A site's wrapper may hand over another file than ours; then the name decides.
        """
        new = {job: said for job, said in (queue() or {}).items() if main_id(job) not in before}
        own = [job for job, said in new.items() if self.holds(said)]
        named = {job: said for job, said in new.items() if said.name == self.name}
        wrapped = [job for job, said in named.items() if os.path.basename(said.batch_file) != f"{self.name}.sh"]
        return max((main_id(job) for job in own or wrapped), key=int, default=None)


def link_line(job: str, pickle: str) -> str:
    """Return the shell line that gives a pickle in the folder $log the name by which submitit looks for it."""
    link = f'"$log/{job}_submitted.pkl"'
    return f'[ {link} -ef "$log/{pickle}" ] || ln -sfn "{pickle}" {link} || exit 1'


def require_sbatch() -> None:
    """Refuse to submit from a machine that has no SLURM.

    Raises:
        RecipeError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        raise RecipeError(
            "this machine has no sbatch: use cluster=local to run here, or cluster=dry to see the batch file"
        )


def setup_lines(
    modules: Sequence[str], lines: Sequence[str], code: Path, folders: Sequence[Path] | None = None
) -> list[str]:
    """Return what the batch script does before its ranks start; where a module or line fails, the node lacks it.

    A line may leave the script, too, by `exit` or after `set -e`, and what it sets does not hold for our own lines.
    The suite's copy comes last, so that it is first on the path whatever modules and the site put there; and so that a
    job has the folders of GLT_PATH that were copied (or `folders`), and no others.
    """
    own = ":".join(map(str, copied_folders(code) if folders is None else folders))
    site = [part for number, line in enumerate(lines, 1) for part in (line, _refusal(number, line))]
    return [
        *(or_lacks(f"module load {name}", f"fails at `module load {name}`") for name in modules),
        *([*BEFORE_SETUP, *site, *AFTER_SETUP] if site else []),
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"export {search_path.VARIABLE}={shlex.quote(own) if own else ''}",
    ]


def _refusal(number: int, line: str) -> str:
    """Return the line after one of the site's: on its own, for that one may end with a comment.

    The log alone shows the line, which may hold a secret.
    """
    return or_lacks("[ $? = 0 ]", f"fails at setup line {number} of the site file", line)
