"""What steps take: a profile of them changes no bit, and every training line tells of waits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.figures.progress import phase_tables
from ifl.distributed.comm import Comm
from ifl.supervision.profiling import PHASES, Profile, busy_us
from ifl.supervision.waits import Waits
from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from tests.helpers.ranks import RankFailure, comm_of, started
from tests.helpers.train_loop import IFL, final_arrays, loop_recipe, trained


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_a_profile_is_a_trace_and_a_table_of_each_rank_and_changes_no_bit(tiny_root: Path, tmp_path: Path) -> None:
    """Two ranks, steps 1 to 3 profiled and not: the same tensors; a trace of each rank that is JSON with each phase of
    both steps; a line with every rank's phases, whose slowest rank loads and computes longest; a table of it."""
    words = ("batch.size=32", "batch.bn=0", "log.every=2", *IFL)
    for name, more in (("plain", ()), ("profiled", ("log.profile=1:3",))):
        recipe = loop_recipe(tiny_root, "glt_ifl", *words, *more, model="plain")
        (tmp_path / name).mkdir()
        answers = started(2).run(trained, recipe.model_dump_json(), str(tmp_path / name))
        assert all(answer["finished"] for answer in answers), answers
    plain, profiled = (final_arrays(tmp_path / name) for name in ("plain", "profiled"))
    assert plain.keys() == profiled.keys()
    assert all(plain[name].tobytes() == profiled[name].tobytes() for name in plain)
    for rank in (0, 1):
        with gzip.open(tmp_path / "profiled" / "log" / f"trace-000001-rank-{rank}.json.gz") as file:
            names = [event.get("name") for event in json.load(file)["traceEvents"]]
        assert all(names.count(f"phase {phase}") >= 2 for phase in PHASES), names[:50]
    assert not list((tmp_path / "plain").glob("log/trace-*")) and not _lines(tmp_path / "plain", "profile")
    (line,) = _lines(tmp_path / "profiled", "profile")
    assert (line["first"], line["steps"], line["step"], len(line["ranks"])) == (1, 2, 3, 2)
    own = [seconds["load"] + seconds["forward"] for seconds in line["ranks"]]
    assert own[line["slowest"]] == max(own) > 0
    head, *rows = phase_tables([line]).splitlines()
    assert head.split()[-6:] == [*PHASES, "idle"] and len(rows) == 2
    assert rows[line["slowest"]].startswith(f"rank {line['slowest']} (slowest)")
    trained_lines = _lines(tmp_path / "plain", "train")
    assert trained_lines and all(value["data_wait_s"] > 0 <= value["rank_wait_s"] for value in trained_lines)


def test_a_trace_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence names the file and the reason; the phases are told all the same."""
    in_the_way = tmp_path / "trace-000001-rank-0.json.gz"
    in_the_way.mkdir()
    profiled = Profile((1, 3), 10, tmp_path, Comm(), torch.device("cpu"))
    told = {}
    for done in range(4):
        profiled.before(done)
        with profiled.phase("forward"):
            pass
        told[done + 1] = profiled.after(done + 1)
    assert not told[1] and not told[2] and not told[4]
    assert (told[3]["first"], told[3]["steps"], told[3]["ranks"][0].keys()) == (1, 2, {*PHASES, "idle"})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "log.profile" in line]
    assert f"{in_the_way} cannot be written (Is a directory)" in line


@pytest.mark.parametrize("value", ["5", "5:5", "7:5", "0:101", "a:b", "-1:3", "1:2:3"])
def test_other_steps_are_refused(value: str) -> None:
    """One sentence that names the key, the value and what is legal."""
    with pytest.raises(RecipeError, match=r"log\.profile=.*two steps are legal, FIRST:END, such as 100:105"):
        resolve(["recipe=glt_ifl", "data=digits_glt", f"log.profile={value}"])


def test_a_profile_is_operation() -> None:
    """A profiled run has the name of one that is not, and the value is kept as it was typed."""
    words = ["recipe=glt_ifl", "data=digits_glt"]
    recipe = resolve([*words, "log.profile=10:20"])
    assert recipe.run_name == resolve(words).run_name and recipe.log.profiled == (10, 20)


def test_steps_that_never_come_are_refused(tiny_root: Path, tmp_path: Path) -> None:
    """Before the first step, with the number of steps that the run has."""
    recipe = loop_recipe(tiny_root, "glt_ifl", "batch.size=32", "batch.bn=0", *IFL, "log.profile=4:6", model="plain")
    with pytest.raises(RankFailure, match=r"log\.profile=4:6: the run has 5 steps, so up to 5 is legal"):
        started(1).run(trained, recipe.model_dump_json(), str(tmp_path))


def test_a_busy_moment_counts_once() -> None:
    """Spans that overlap, touch or lie inside another."""
    assert busy_us([(10, 12), (0, 4), (1, 2), (3, 6), (6, 7)]) == 9 and busy_us([]) == 0


def test_waits_are_means_over_the_ranks() -> None:
    """Of 8 rows on 2 ranks: own times of 3 and 1 ns an image are 4 ns of waiting of one rank, 2 on average."""
    waits = Waits(8)
    waits.count([3_000_000, 1_000_000], [500_000_000, 100_000_000])
    waits.count([0, 1_000_000], [0, 100_000_000])  # a first step: own times are not known yet
    assert waits.taken() == {"data_wait_s": 0.35, "rank_wait_s": 0.004}
    assert waits.taken() == {"data_wait_s": 0.0, "rank_wait_s": 0.0}


def data_waits() -> list[list[int]]:
    """In a rank: what three steps' totals say of waits for data, of which each rank has its own."""
    import torch

    from ifl.step_reduction import MicroBatchSums, StepSync

    comm = comm_of(2)
    sync, told = StepSync(comm, 4, None, torch.device("cpu")), []
    for step in range(3):
        sync.begin()
        sync.waited_for_data(0.25 * step)
        sync.waited_for_data(comm.rank)
        part = MicroBatchSums(torch.ones(2), torch.tensor(1), torch.ones(2), [(1.0, torch.zeros(2).long())])
        sync.add(part)
        sync.start((0, step), save=False, stop=False)
        told.append(sync.wait().data_ns)
    return told


def test_waits_for_data_ride_in_the_next_steps_reduction() -> None:
    """All ranks learn all ranks' waits of the step before."""
    second = 10**9
    assert started(2).run(data_waits) == [[[0, 0], [0, second], [second // 4, second + second // 4]]] * 2
