"""Tables and second stages: the runs that a command asks for, each once, after those that it builds on, and what they
cost.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from recipes.common.errors import RecipeError
from recipes.resolve import dump, resolve
from recipes.table_layout import available, find_layout, is_open, load_layout
from slurm.planning.cost import cost
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import schedule
from slurm.site_file import Site
from tests.helpers.plans import micro_batches
from tests.helpers.shipped import OPEN, TABLES, layout_of

NOBODY = Site()


def runs_of(*words: str, runs: Path) -> list:
    return requested_runs([f"runs={runs}", *words], NOBODY).runs


def asked(table: str) -> list[str]:
    return [f"table={table}", *(["data=digits_glt"] if is_open(available()[table]) else [])]


# Of the open tables the one with both budgets here, and below the one with the most recipes.
@pytest.mark.parametrize("name", sorted({*available()} - {*OPEN} | {"budgets"}))
def test_a_table_is_its_rows_on_its_data_once_each(name: str, tmp_path: Path) -> None:
    """Every row has its run for each (data, edition, seed); rows that share one do not make it twice; nothing else is
    there but what those build on.
    """
    layout = layout_of(name)
    found = runs_of(*asked(name), "seeds=0,7", runs=tmp_path)
    folders = [run.folder for run in found]
    assert len(set(folders)) == len(folders)
    rows = set()
    for row in layout.rows:
        for data, train in layout.sources:
            for seed in (0, 7):
                words = [
                    f"recipe={row.recipe}",
                    f"data={data}",
                    f"train={train}",
                    f"preset={layout.preset}",
                    f"seed={seed}",
                    f"runs={tmp_path}",
                    f"batch.budget={row.budget}",
                    *(f"{key}={value}" for key, value in row.set.items()),
                ]
                rows.add(resolve(words).run_folder)
    needed = {need for run in found for need in run.needs}
    assert rows <= set(folders) <= rows | needed and needed <= set(folders)
    for place, run in enumerate(found):
        assert all(folders.index(need) < place for need in run.needs)


@pytest.mark.parametrize("gpus", [4, 8])
@pytest.mark.parametrize("name", sorted({*TABLES} - {*OPEN} | {"parts"}))
def test_a_table_can_be_launched_on_nodes_with_several_gpus(name: str, gpus: int, tmp_path: Path) -> None:
    """With 4 and 8 GPUs in the site file no row needs more ranks than may share its batch, nor fewer than the site
    gives; but IRM's, which are as many as groups at most.
    """
    for run in requested_runs([f"runs={tmp_path}", *asked(name), "seeds=0"], Site(slurm={"gpus_per_node": gpus})).runs:
        recipe = run.recipe
        for rank in range(recipe.tasks):
            assert micro_batches(
                recipe.batch.size, recipe.batch.bn, rank, recipe.tasks, synchronised=True, streams=recipe.streams
            )
        assert recipe.tasks == gpus or recipe.recipe == "glt_irm"


def test_the_seeds_of_a_table_are_its_own_unless_given(tmp_path: Path) -> None:
    """Without seeds= those of the table file; with it those of the command."""
    own = load_layout(available()["digits_clt_glt"]).seeds
    assert sorted({run.recipe.seed for run in runs_of("table=digits_clt_glt", runs=tmp_path)}) == own
    assert {run.recipe.seed for run in runs_of("table=digits_clt_glt", "seeds=5", runs=tmp_path)} == {5}


def test_a_row_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    """`claims` has five for six rows and three for the others; seed 0 of all rows comes before seed 1 of any."""
    found = runs_of("table=claims", "data=digits_glt", runs=tmp_path)
    seeds: dict[str, list[int]] = {}
    for run in found:
        seeds.setdefault(f"{run.recipe.recipe} {run.recipe.train}", []).append(run.recipe.seed)
    five = {name for name, of_row in seeds.items() if of_row == [0, 1, 2, 3, 4]}
    plain = ("glt_baseline", "glt_balanced_softmax", "glt_randaug")
    with_ifl = ("glt_ifl", "glt_balanced_softmax_ifl", "glt_randaug_ifl")
    assert five == {f"{name} {train}" for name in (*plain, *with_ifl) for train in ("glt", "cbl")}
    assert all(of_row == [0, 1, 2] for name, of_row in seeds.items() if name not in five)
    order = [run.recipe.seed for run in found]
    assert order == sorted(order) and len(found) == 2 * (6 * 5 + 15 * 3)
    given = runs_of("table=claims", "data=digits_glt", "seeds=7", runs=tmp_path)
    assert {run.recipe.seed for run in given} == {7} and len(given) == 2 * 21


def test_a_second_stage_brings_its_first(tmp_path: Path) -> None:
    """`recipe=glt_crt` is two runs, the first stage first, with the words that say how it runs and none that say what
    it is; one that is finished is not asked for again.
    """
    first, second = runs_of(
        "recipe=glt_crt",
        "data=digits_glt",
        "seed=3",
        "slurm.time=77",
        "optim.lr=0.5",
        "preset=corrected",
        runs=tmp_path,
    )
    assert (
        (first.recipe.recipe, second.recipe.recipe) == ("glt_baseline", "glt_crt")
        and second.needs == (first.folder,)
        and not first.needs
    )
    assert (
        first.recipe.seed == 3
        and first.recipe.slurm.time == 77
        and first.recipe.optim.lr == 0.1
        and second.recipe.optim.lr == 0.5
        and first.recipe.preset == "corrected"
    )
    first.folder.mkdir()
    (first.folder / "recipe.yaml").write_text(dump(first.recipe))
    assert [
        run.folder
        for run in runs_of(
            "recipe=glt_crt", "data=digits_glt", "seed=3", "optim.lr=0.5", "preset=corrected", runs=tmp_path
        )
    ] == [first.folder, second.folder]
    (first.folder / "done").write_text("{}")
    again = runs_of("recipe=glt_crt", "data=digits_glt", "seed=3", "optim.lr=0.5", "preset=corrected", runs=tmp_path)
    assert [run.folder for run in again] == [second.folder]
    assert [step.run.folder for step in schedule(again, {first.folder}, ())] == [second.folder]


def test_a_first_stage_takes_over_what_must_agree(tmp_path: Path) -> None:
    """Another network, image size or precision of a second stage is the first's too, which its remark says; what
    `first.` sets is the first's alone, and its name is the one that the second knows it by.
    """
    words = ["recipe=glt_crt", "data=digits_glt", "schedule.epochs=3", "optim.lr=0.5"]
    plain, _ = runs_of(*words, runs=tmp_path)
    assert plain.remark == "" and plain.recipe.run_name == resolve(["data=digits_glt"]).run_name
    first, second = runs_of(
        *words,
        "model.name=resnet50",
        "data.image_size=24",
        "optim.precision=bf16",
        "first.schedule.epochs=7",
        "first.augment.hflip=true",
        runs=tmp_path,
    )
    assert first.recipe.recipe == "glt_baseline" and second.needs == (first.folder,)
    for run, epochs, lr, hflip in ((first, 7, 0.1, True), (second, 3, 0.5, False)):
        recipe = run.recipe
        assert (recipe.model.name, recipe.data.image_size, recipe.optim.precision) == ("resnet50", 24, "bf16")
        assert (recipe.schedule.epochs, recipe.optim.lr, recipe.augment.hflip) == (epochs, lr, hflip)
    assert first.remark.startswith("as the first stage of glt_crt, with ")
    assert "model.name=resnet50 (small_resnet)" in first.remark and "schedule.epochs=7 (60)" in first.remark


def test_a_row_of_a_table_sets_its_first_stage(tmp_path: Path) -> None:
    """Two rows of one recipe with other first stages are four runs, each second stage behind its own; a word that says
    how runs go still reaches all of them."""
    file = tmp_path / "stages.yaml"
    rows = [
        {"group": "A", "recipe": "glt_crt", "label": "cRT"},
        {"group": "A", "recipe": "glt_crt", "label": "longer", "set": {"first.schedule.epochs": 7, "optim.lr": 0.3}},
    ]
    column = {"data": "digits_glt", "train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}
    file.write_text(yaml.safe_dump({"preset": "corrected", "seeds": [1], "rows": rows, "columns": [column]}))
    found = runs_of(f"table={file}", "log.every=9", runs=tmp_path / "runs")
    assert [run.recipe.recipe for run in found] == ["glt_baseline", "glt_crt"] * 2
    assert [run.needs for run in found] == [(), (found[0].folder,), (), (found[2].folder,)]
    assert [run.recipe.schedule.epochs for run in found[::2]] == [resolve(["data=digits_glt"]).schedule.epochs, 7]
    assert [run.recipe.optim.lr for run in found] == [0.1, 0.1, 0.1, 0.3]
    assert {run.recipe.log.every for run in found} == {9} and len({run.folder for run in found}) == 4
    assert not found[0].remark and "schedule.epochs=7" in found[2].remark


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["recipe=glt_baseline", "first.schedule.epochs=2"], "the recipe glt_baseline has no first stage"),
        (["recipe=glt_crt", "first.model.name=resnet50"], "first.model.name=resnet50 is not legal: of a first stage"),
        (["recipe=glt_crt", "first.schedule.epoch=2"], "schedule.epoch"),
    ],
)
def test_what_a_first_stage_cannot_be_is_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    """`first.` sets how a first stage trains, where there is one."""
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        runs_of("data=digits_glt", *words, runs=tmp_path)


def test_a_first_stage_of_another_network_is_refused_at_the_launch(tmp_path: Path) -> None:
    """A run that lies there, named by `init_from`, must have the second stage's network."""
    own = resolve(["data=digits_glt", f"runs={tmp_path}", "optim.lr=0.3", "model.name=resnet50"])
    own.run_folder.mkdir()
    (own.run_folder / "recipe.yaml").write_text(dump(own))
    words = ["recipe=glt_crt", "data=digits_glt", f"method.init_from={own.run_name}"]
    with pytest.raises(RecipeError, match=r"model\.name=small_resnet .* model\.name=resnet50: its weights cannot fit"):
        runs_of(*words, runs=tmp_path)
    assert len(runs_of(*words, "model.name=resnet50", runs=tmp_path)) == 2


def test_a_first_stage_of_ones_own_is_named_by_its_run(tmp_path: Path) -> None:
    """`method.init_from=RUN` takes that run where it lies; one that is not there and that no recipe makes by its name
    alone is refused.
    """
    own = resolve(["recipe=glt_baseline", "data=digits_glt", f"runs={tmp_path}", "optim.lr=0.3"])
    with pytest.raises(RecipeError, match="launch it first"):
        runs_of("recipe=glt_crt", "data=digits_glt", f"method.init_from={own.run_name}", runs=tmp_path)
    own.run_folder.mkdir()
    (own.run_folder / "recipe.yaml").write_text(dump(own))
    assert [
        run.recipe.optim.lr
        for run in runs_of("recipe=glt_crt", "data=digits_glt", f"method.init_from={own.run_name}", runs=tmp_path)
    ] == [0.3, 0.1]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["table=digits_cl_glt"], "did you mean digits_clt_glt"),
        (["table=digits_alt", "recipe=glt_ifl"], "recipe= and table= do not go together"),
        (["table=digits_alt", "data=digits_glt"], "names its data itself; open tables, which take data=, are alt, "),
        (
            ["table=alt"],
            "table=alt is open, so data=NAME (or NAME,NAME) says on which data it is laid out; known",
        ),
        (["table=alt", "data="], "data= is not legal: names of data sets"),
        (["table=alt", "data=digits_glt,digits_glt"], "each once"),
        (["table=alt", "data.name=digits_glt", "data=digits_glt"], "data.name= and table="),
        (["table=./none.yaml"], "table=./none.yaml: there is no such file"),
        (["table=digits_alt", "preset=paper"], "preset= and table="),
        (["table=digits_alt", "seeds=0", "seed=1"], "seed= and seeds="),
        (["table=digits_alt", "optim.precision=bf16"], "optim.precision=bf16 and table= do not go together"),
        (["table=digits_alt", "nodes=2", "log.every=3", "schedule.epochs=2"], "schedule.epochs=2 and table="),
        (["table=digits_alt", "ifl=null"], "a table's runs are its recipes'"),
        (["table="], "table= does not exist"),
    ],
)
def test_words_that_a_table_decides_are_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    """With one sentence."""
    with pytest.raises(RecipeError) as error:
        runs_of(*words, runs=tmp_path)
    assert sentence in str(error.value)


def test_an_open_table_is_its_rows_on_the_data_named(tmp_path: Path) -> None:
    """`table=alt data=NAME,NAME` asks for what a fixed table of the same columns on both would."""
    found = runs_of("table=alt", "data=digits_glt,imagenet_glt", "seeds=0", runs=tmp_path)
    layout = find_layout("alt", ["digits_glt", "imagenet_glt"])
    rows = {
        resolve([*layout.words(row, (data, "cbl")), "seed=0", f"runs={tmp_path}"]).run_folder
        for row in layout.rows
        for data in ("digits_glt", "imagenet_glt")
    }
    assert rows <= {run.folder for run in found} and {run.recipe.train for run in found} == {"cbl"}
    assert {run.recipe.preset for run in found} == {"corrected"}


def test_editions_that_the_data_have_not_are_not_planned(tmp_path: Path) -> None:
    """Where dataset.json is there to be read and has no edition cbl, nothing is trained on it, with a sentence; a table
    of nothing else is refused. Where it is not there, all is planned.
    """
    root = tmp_path / "data"
    words = ["data=digits_glt", "seeds=0", f"data.root={root}", f"runs={tmp_path}"]
    editions = {run.recipe.train for run in requested_runs(["table=overall", *words], NOBODY).runs}
    assert editions == {"glt", "cbl"}
    (root / "digits_glt").mkdir(parents=True)
    splits = {split: f"glt/{split}" for split in ("train", "val", "test_cbl")}
    (root / "digits_glt" / "dataset.json").write_text(json.dumps({"editions": {"glt": splits}}))
    asked_for = requested_runs(["table=overall", *words], NOBODY)
    assert {run.recipe.train for run in asked_for.runs} == {"glt"}
    assert asked_for.said == ("ALT is left out: digits_glt has no edition cbl (its edition is glt)",)
    with pytest.raises(RecipeError, match="table=alt: there is nothing to run: ALT is left out: digits_glt has no"):
        requested_runs(["table=alt", *words], NOBODY)


def test_rows_that_cannot_use_all_nodes_take_fewer_and_say_so(tmp_path: Path) -> None:
    """A row that refuses the number of tasks goes on the most nodes that it can use, with the reason; the others go on
    all. One recipe alone is refused.
    """
    words = ["nodes=4", "slurm.gpus_per_node=8"]
    runs = requested_runs(["table=ablation", "seeds=0", f"runs={tmp_path}", *words], Site()).runs
    nodes = {run.recipe.recipe: (run.recipe.nodes, run.recipe.tasks, run.remark) for run in runs}
    assert nodes["glt_irm"] == (
        1,
        2,
        "on 1 of the 4 nodes, for the method irm cannot share a batch-normalisation group among ranks: its penalty "
        "is that of a whole group; at most 2 tasks are legal here",
    )
    assert (
        nodes["glt_mixup_ifl"][:2] == nodes["glt_ride_ifl_mixup"][:2] == (2, 16)
        and "1, 2, 4, 8, 16 tasks are legal" in nodes["glt_mixup_ifl"][2]
    )
    assert all(found == (4, 32, "") for name, found in nodes.items() if "mixup" not in name and name != "glt_irm")
    with pytest.raises(RecipeError, match="at most 2 tasks"):
        requested_runs(["recipe=glt_irm", *words, f"runs={tmp_path}"], Site())


def test_cost_is_counted_in_images_and_measured_hours(tiny_root: Path, tmp_path: Path) -> None:
    """Images are epochs x draws of all streams of what is not finished; hours come from the images/s of the runs of the
    same method, or else form of network and part that is trained, or else of any on the same network, per process; a
    later judgement costs none."""
    words = ["data=digits_glt", f"data.root={tiny_root}", "schedule.epochs=5"]
    (baseline,) = runs_of("recipe=glt_baseline", *words, runs=tmp_path)
    (ifl,) = runs_of("recipe=glt_ifl", "ifl.milestones=[1,2]", *words, runs=tmp_path)
    judged = runs_of("recipe=glt_logit_adjust", *words[:2], runs=tmp_path)[-1]
    total = cost([baseline, ifl, judged])
    assert (total.runs, total.images, total.hours) == (3, 5 * 209 + 5 * 2 * 209, None)
    ifl.folder.mkdir()
    (ifl.folder / "recipe.yaml").write_text(dump(ifl.recipe))
    lines = [{"kind": "boot", "world": 2}, *({"kind": "train", "images_per_s": rate} for rate in (10.0, 400.0, 418.0))]
    (ifl.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cost([baseline, ifl]).hours == pytest.approx(15 * 209 / 200 / 3600)
    lff = runs_of("recipe=glt_lff", *words, runs=tmp_path)[-1]
    assert cost([lff]).hours == pytest.approx(
        5 * 209 / 200 / 3600
    )  # two networks have another price, but none was measured yet
    lff.folder.mkdir()
    (lff.folder / "recipe.yaml").write_text(dump(lff.recipe))
    (lff.folder / "metrics.jsonl").write_text(json.dumps({"kind": "train", "images_per_s": 90.0}) + "\n")
    assert cost([lff]).hours == pytest.approx(5 * 209 / 90 / 3600)
    assert cost([baseline, ifl]).hours == pytest.approx(15 * 209 / 200 / 3600)
    assert cost([runs_of("recipe=glt_bbn", *words, runs=tmp_path)[-1]]).hours == pytest.approx(
        5 * 2 * 209 / 145 / 3600
    )  # no run is like it: the median of all
    (ifl.folder / "done").write_text("{}")
    assert cost([baseline, ifl]).images == 5 * 209


CLEAN_VIEW = "model.train=head data.features=once "


@pytest.mark.parametrize(
    "words, legal",
    [
        ("schedule.drops=[0.5]", "schedule.decay=steps"),
        ('schedule={"gamma":0.5}', "schedule.decay=steps"),
        ("augment.randaug_pixels=package", "augment.randaug=true"),
        ("batch.bn_by=env", "ifl.environments=2"),
        (f"{CLEAN_VIEW}augment.crop_scale=[0.5,1]", "data.feature_views=2"),
        (f"{CLEAN_VIEW}augment.hflip=false", "data.feature_views=2"),
        ("recipe=glt_crt first.schedule.gamma=0.5", "first.schedule.decay=steps"),
        ("grid=schedule.gamma:0.1,0.5", "schedule.decay=steps"),
        ("schedule.gamma=0.5 grid=optim.lr:0.1,0.2", "schedule.decay=steps"),
        ("recipe=glt_crt grid=first.schedule.gamma:0.1,0.5", "first.schedule.decay=steps"),
        (
            "grid=optim.lr:.1,.2+schedule.gamma:0.1,0.5",
            "grid=schedule.decay:cosine,steps+schedule.gamma:.1,.5",
        ),
    ],
)
def test_what_no_run_of_a_command_reads_is_refused(words: str, legal: str, tmp_path: Path) -> None:
    """It would make another run of the same numbers; where one reads it, or a file says it for others, it is legal."""
    command = ["data=digits_glt", *words.split()]
    with pytest.raises(RecipeError, match=r"^(first\.)?[a-z_.]+(=env)? would change nothing with"):
        runs_of(*command, runs=tmp_path)
    kept = [word for word in command if not (word.startswith("grid=") and legal.startswith("grid="))]
    assert runs_of(*kept, legal, runs=tmp_path)
    assert runs_of("recipe=glt_ldam", "schedule.decay=cosine", runs=tmp_path)[0].recipe.schedule.gamma == 0.01


@pytest.mark.parametrize(
    "table, key, value", [("demo", "batch.bn_by", "env"), ("overall", "augment.randaug_pixels", "package")]
)
def test_a_tables_value_need_not_be_read_in_all_of_its_rows(table: str, key: str, value: str, tmp_path: Path) -> None:
    """It is in the names of all of them, as ever; so are the values of a grid over a table."""
    (file := tmp_path / "mine.yaml").write_text(yaml.safe_dump({"like": table, "set": {key: value}}))
    data = ["data=digits_glt"] if is_open(available()[table]) else []
    by_hand = resolve(["data=digits_glt", f"preset={layout_of(table).preset}", f"{key}={value}"]).hash8
    for words in ([f"table={file}"], [f"table={table}", f"grid={key}:{value}"]):
        found = runs_of(*words, *data, "seeds=0", runs=tmp_path)
        assert by_hand in {run.recipe.hash8 for run in found if run.recipe.recipe == "glt_baseline"}
