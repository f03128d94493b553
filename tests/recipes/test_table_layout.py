"""Table layouts: open ones, which take their data from the command, and rows with values of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common.errors import RecipeError
from recipes.layers import parse_words
from recipes.resolve import resolve
from recipes.schema import Model
from recipes.table_layout import Layout, available, data_names, find_layout, load_layout, open_tables, tried_in
from tests.helpers import shipped
from tests.helpers.paths import PROJECT

CLT = {"train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}
GLT = {**CLT, "protocol": "glt"}


def row(recipe: str = "glt_baseline", label: str = "A", **more: Any) -> dict[str, Any]:
    return {"recipe": recipe, "label": label, "group": "G", **more}


def written(folder: Path, **content: Any) -> Path:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"preset": "corrected", "seeds": [0], **content}))
    return file


def layout_in(folder: Path, rows: list[dict[str, Any]], columns: list[dict[str, Any]], data: list[str]) -> Layout:
    return find_layout(str(written(folder, rows=rows, columns=columns)), data)


# ---------------------------------------------------------------------------------------------------------- open tables
def test_data_sets_stand_side_by_side(tmp_path: Path) -> None:
    """Each data set has a block of the columns that leave `data` out; a column that names its data stands once."""
    columns = [CLT, GLT, {**CLT, "data": "imagenet_glt"}]
    made = layout_in(tmp_path, [row()], columns, ["birds", "digits_glt"])
    assert [(column.data, column.protocol) for column in made.columns] == [
        ("birds", "clt"),
        ("birds", "glt"),
        ("imagenet_glt", "clt"),
        ("digits_glt", "clt"),
        ("digits_glt", "glt"),
    ]


def test_the_open_tables_are_those_documented() -> None:
    """They are corrected, with three seeds, and every row with IFL in the headline tables has its twin's images."""
    assert set(open_tables()) >= set(shipped.OPEN)
    for name in shipped.OPEN:
        made = shipped.layout_of(name)
        assert made.preset == "corrected" and made.seeds == [0, 1, 2]
    for name in ("clt_glt", "alt", "overall", "claims"):
        for one in shipped.layout_of(name).rows:
            assert (one.budget == "matched") == one.recipe.endswith("_ifl") == (one.twin is not None)


@pytest.mark.parametrize(
    "open_name, fixed", [("clt_glt", "digits_clt_glt"), ("alt", "digits_alt"), ("overall", "digits_overall")]
)
def test_open_tables_are_laid_out_as_the_fixed_ones(open_name: str, fixed: str) -> None:
    """The same rows in the same order and, on the bundled data, the same columns; only budgets, preset and seeds
    differ.
    """
    ours, theirs = shipped.layout_of(open_name), shipped.layout_of(fixed)
    assert [one.model_copy(update={"budget": "paper"}) for one in ours.rows] == theirs.rows
    assert ours.columns == theirs.columns and ours.published == theirs.published


def test_every_ifl_row_of_the_budgets_has_both() -> None:
    """Each method stands without IFL, with it at the paper's budget and at its own; the baseline with twice the images
    too.
    """
    rows = shipped.layout_of("budgets").rows
    with_ifl = [one for one in rows if one.recipe.endswith("_ifl")]
    assert sorted(one.recipe for one in with_ifl if one.budget == "paper") == sorted(
        one.recipe for one in with_ifl if one.budget == "matched"
    )
    assert {one.twin for one in with_ifl} == {one.recipe for one in rows if one.twin is None}
    assert [one.recipe for one in rows if one.twin and one not in with_ifl] == ["glt_baseline_2n"]


def test_a_row_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    """They replace the table's for that row; a seed twice, or none, is refused with its place."""
    made = layout_in(tmp_path, [row(seeds=[0, 1, 2]), row("glt_ifl", "B")], [CLT], ["birds"])
    assert [made.seeds_of(one) for one in made.rows] == [[0, 1, 2], [0]]
    replaced = made.with_seeds([4])
    assert [replaced.seeds_of(one) for one in replaced.rows] == [[4], [4]]
    with pytest.raises(ValueError, match="seeds of A names 1 twice"):
        layout_in(tmp_path, [row(seeds=[1, 1])], [CLT], ["birds"])
    with pytest.raises(ValueError, match=r"rows\.0\.seeds"):
        layout_in(tmp_path, [row(seeds=[])], [CLT], ["birds"])


def test_what_val_chose_is_said_once(tmp_path: Path) -> None:
    """Beside the data set's values: every row of the recipe counts it, and no shipped row says it again. A row with
    other values counts what it says itself. What a recipe says that val chose is among several.
    """
    assert not any(one.tried for name in available() for one in shipped.layout_of(name).rows)
    assert tried_in("fashion_glt")["glt_tade"] == 8 and "glt_crt" not in tried_in("fashion_glt")
    chosen = {"glt_ldam": ["digits_glt"], "glt_ride": ["digits_glt"], "glt_tde": ["digits_glt", "fashion_glt"]}
    assert all(tried_in(data)[recipe] > 1 for recipe, names in chosen.items() for data in names)
    rows = [
        row("glt_tade", "plain"),
        row("glt_tade", "set", set={"optim.lr": 0.3}),
        row("glt_tade", "own", budget="matched", tried={"digits_glt": 2}),
        row("glt_crt", "none"),
    ]
    made = layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    assert made.tried_on("digits_glt") == {"plain": 4, "own": 2, "set": 1, "none": 1}


@pytest.mark.parametrize("data", ["digits_glt", "fashion_glt"])
def test_rows_on_a_small_set_take_as_many_steps(data: str) -> None:
    """Rows that are compared there see batches of one size, but for what three environments need to share one; BBN
    has such a batch for each of its two branches. A row with larger batches would take fewer steps than the others.
    """
    usual = resolve(["recipe=glt_baseline", f"data={data}"]).batch.size
    sizes = {name: resolve([f"recipe={name}", f"data={data}"]).batch.size for name in shipped.RECIPES}
    assert {name: size for name, size in sizes.items() if not usual <= size < 1.04 * usual} == {"glt_bbn": 2 * usual}


@pytest.mark.parametrize(
    "tried, sentence",
    [
        ({"glt_tade": 0}, "birds.yaml: tried.glt_tade=0 is not legal: a whole number from 1 is"),
        ({"glt_tad": 3}, "birds.yaml: tried: recipe=glt_tad does not exist; did you mean glt_tade"),
        ([3], "birds.yaml: tried=[3] is not legal: counts by recipe are"),
    ],
)
def test_counts_of_a_data_file_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Any, sentence: str
) -> None:
    """When a layout on the data set is read; and they are no value of a recipe."""
    (folder := tmp_path / "recipes" / "data").mkdir(parents=True)
    monkeypatch.setenv("GLT_PATH", str(tmp_path))
    content = yaml.safe_load((PROJECT / "recipes" / "data" / "fashion_glt.yaml").read_text())
    file, words = folder / "birds.yaml", ["data=birds", "recipe=glt_baseline"]
    file.write_text(yaml.safe_dump({**content, "data": {**content["data"], "name": "birds"}, "tried": tried}))
    with pytest.raises(ValueError) as error:
        layout_in(tmp_path, [row()], [CLT], ["birds"])
    assert sentence in str(error.value)
    hash8 = resolve(words).hash8
    file.write_text(file.read_text().partition("tried:")[0])
    assert resolve(words).hash8 == hash8


@pytest.mark.parametrize(
    "tried, sentence",
    [
        ({"digits_glt": 0}, "rows.0.tried.digits_glt"),
        ({"digits_gl": 3}, "tried of A names digits_gl; did you mean digits_glt?"),
    ],
)
def test_values_tried_that_nobody_can_have_tried(tmp_path: Path, tried: dict[str, int], sentence: str) -> None:
    """No value at all, or values on a data set that the table has not, are refused when the layout is read."""
    with pytest.raises(ValueError) as error:
        layout_in(tmp_path, [row(tried=tried)], [{**CLT, "data": "digits_glt"}], [])
    assert sentence in str(error.value)


@pytest.mark.parametrize("text", ["", "birds,", "birds,birds", "a b", "../birds"])
def test_data_that_no_set_is_called(text: str) -> None:
    """Names of data sets are legal, each once."""
    with pytest.raises(ValueError, match="each once"):
        data_names(text)


def test_a_file_elsewhere_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`table=PATH` is the layout in that file, with the file's name; one that analysis cannot write is refused, also
    where a folder of the user's brings it."""
    file = tmp_path / "mine.yaml"
    file.write_text(available()["digits_alt"].read_text())
    assert find_layout(str(file)).model_copy(update={"name": "digits_alt"}) == load_layout(available()["digits_alt"])
    for name in ("results", "a b"):
        (tmp_path / f"{name}.yaml").write_text(file.read_text())
        with pytest.raises(ValueError, match="the files made of a table have its name"):
            find_layout(str(tmp_path / f"{name}.yaml"))
    monkeypatch.setenv("GLT_PATH", str(tmp_path / "own"))
    (tmp_path / "own" / "recipes" / "tables").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "tables" / "results.yaml").write_text(file.read_text())
    with pytest.raises(ValueError, match="the files made of a table have its name"):
        find_layout("results")


# ------------------------------------------------------------------------------------------------------- values of rows
@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"optim.lrr": 0.1}, "optim.lrr is no science key of a recipe; did you mean optim.lr? legal: optim.lr, "),
        ({"lr": 0.1}, "lr is no science key of a recipe; did you mean"),
        ({"nodes": 2}, "nodes is no science key of a recipe"),
        ({"optim.lr": "fast"}, "optim.lr=fast"),
        ({"optim.lr": -1}, "optim.lr=-1 (set): input should be greater than 0"),
        ({"ifl.unseen": "zeros"}, "did you mean zero?"),
        ({"seed": 3}, "seed is said by the table's own keys"),
        ({"data": "birds"}, "data is said by the table's own keys"),
        ({"batch.budget": "matched"}, "batch.budget is said by the table's own keys"),
        ({"optim": {"lr": 0.1}}, "optim is no science key of a recipe"),
        ({"first.optim.lrr": 0.1}, "first.optim.lrr is no science key of a recipe; did you mean first.optim.lr?"),
        ({"first.optim.lr": -1}, "first.optim.lr=-1 (set): input should be greater than 0"),
        ({"first.model.name": "resnet50"}, "first.model.name=resnet50 is not legal: of a first stage schedule, optim"),
        ({"first.batch.budget": "paper"}, "first.batch.budget is said by the table's own keys"),
    ],
)
def test_values_of_a_row_are_checked_when_it_is_read(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    """By the schema, in one sentence with the row's place and the nearest legal key."""
    with pytest.raises(ValueError) as error:
        layout_in(tmp_path, [row(set=values)], [CLT], ["digits_glt"])
    assert sentence in str(error.value) and "rows.0.set" in str(error.value) and "\n" not in str(error.value)


def test_a_row_sets_its_first_stage(tmp_path: Path) -> None:
    """`first.KEY` is a word of the row's command, and the run's hash is another; where there is no first stage the
    command is refused."""
    values: dict[str, Any] = {"first.optim.lr": 0.05, "optim.lr": 0.2}
    rows = [row(recipe="glt_crt"), row(recipe="glt_crt", set=values), row(set=dict(values))]
    made = layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    first = ["data=digits_glt", "preset=corrected"]
    plain, own = (resolve(made.words(one, ("digits_glt", "glt"))) for one in made.rows[:2])
    assert own.optim.lr == 0.2 and plain.method.init_from == resolve(first).run_name
    assert own.method.init_from == resolve([*first, "optim.lr=0.05"]).run_name
    assert len({plain.hash8, own.hash8, resolve([*first, "recipe=glt_crt", "optim.lr=0.2"]).hash8}) == 3
    with pytest.raises(RecipeError, match=r"first\.optim\.lr=0\.05 is not legal: the recipe glt_baseline has no first"):
        resolve(made.words(made.rows[2], ("digits_glt", "glt")))


def test_a_row_sets_arguments_one_by_one(tmp_path: Path) -> None:
    """Those of a backbone of a library, as those of a method."""
    values: dict[str, Any] = {"model.args.patch_size": 8, "model.args.embed_dim": [8, 16], "method.args.q": 0.5}
    made = layout_in(tmp_path, [row(set=values)], [CLT], ["digits_glt"])
    words = ["method.args.q=0.5", "model.args.embed_dim=[8, 16]", "model.args.patch_size=8"]
    assert sorted(made.rows[0].set_words) == words
    assert parse_words(words[1:]) == {"model": {"args": {"patch_size": "8", "embed_dim": "[8, 16]"}}}
    assert Model(name="timm:x", args={"patch_size": "8", "embed_dim": "[8, 16]"}).args == {
        "patch_size": 8,
        "embed_dim": [8, 16],
    }


def test_rows_of_one_recipe_differ_by_their_values(tmp_path: Path) -> None:
    """Other values make another row and other words; the same ones are a row given twice."""
    rows = [row(), row(set={"optim.lr": 0.05}), row(set={"optim.lr": 0.2, "data.mean": [0.1, 0.2, 0.3], "ifl": None})]
    made = layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    recipes = [resolve(made.words(one, ("digits_glt", "glt"))) for one in made.rows]
    assert [recipe.optim.lr for recipe in recipes] == [0.1, 0.05, 0.2]
    assert recipes[2].data.mean == (0.1, 0.2, 0.3) and len({recipe.run_name for recipe in recipes}) == 3
    with pytest.raises(ValueError, match=r"rows names .* twice"):
        layout_in(tmp_path, [row(set={"optim.lr": 1}), row(label="B", set={"optim.lr": 1})], [CLT], ["digits_glt"])


def test_a_table_sets_values_of_all_rows(tmp_path: Path) -> None:
    """Of first stages too, so that a second one builds on the table's own row; what a row sets itself comes before it.
    Weights and class vectors count by what they hold.
    """
    (weights := tmp_path / "w.safetensors").write_bytes(b"w")
    (text := tmp_path / "t.safetensors").write_bytes(b"t")
    values: dict[str, Any] = {"model.weights": str(weights), "optim.name": "adamw", "optim.lr": 0.001}
    rows = [
        row(),
        row("glt_crt"),
        row("glt_logit_adjust"),
        row(label="B", set={"optim.lr": 0.01, "method.text": str(text)}),
    ]
    file = written(tmp_path, rows=rows, columns=[CLT], set=values)
    made = find_layout(str(file), ["digits_glt"])
    plain, second, judged, own = (resolve(made.words(one, ("digits_glt", "glt"))) for one in made.rows)
    assert plain.model.weights == str(weights)
    assert second.method.init_from == judged.method.eval_of == plain.run_name and second.optim.name == "adamw"
    assert (plain.optim.lr, own.optim.lr, own.method.text) == (0.001, 0.01, str(text))
    assert [made.outside(one.recipe, "G").set for one in made.rows[:2]] == [one.set for one in made.rows[:2]]
    (elsewhere := tmp_path / "elsewhere.safetensors").write_bytes(b"w")
    moved = find_layout(
        str(written(tmp_path, rows=rows, columns=[CLT], set=values | {"model.weights": str(elsewhere)})), ["digits_glt"]
    )
    assert resolve(moved.words(moved.rows[0], ("digits_glt", "glt"))).run_name == plain.run_name


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"set": {"optim.lrr": 1}}, "mine.yaml: set: optim.lrr is no science key of a recipe; did you mean optim.lr?"),
        ({"set": {"model.args.Patch": 1}}, "mine.yaml: set: model.args.Patch"),
        ({"set": {"ifl.alpha": [1.0, 1.0]}}, "set: ifl.alpha is not for rows without IFL: it is legal in the `set` of"),
        ({"set": {"first.optim.lr": 1.0}}, "set: first.optim.lr is not for rows without first stage: it is legal in"),
        ({"set": {"seed": 1}}, "mine.yaml: set: seed is said by the table's own keys"),
        (
            {"set": {"optim.lr": 1.0}, "rows": [row("glt_nothing")]},
            "set: optim.lr is for first stages, too, and recipe",
        ),
        ({"set": {"optim.lr": 1.0}, "rows": [row(), row(label="B", set={"optim.lr": 1.0})]}, "names ('glt_baseline',"),
        ({"set": 3}, "mine.yaml: set: Input should be a valid dictionary"),
        ({"like": "overal"}, "mine.yaml: like: overal names no table; did you mean overall?"),
        ({"like": 3}, "mine.yaml: like: 3 names no table"),
    ],
)
def test_what_no_table_is_made_of(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """Is refused in one sentence with its place, when the layout is read."""
    with pytest.raises(ValueError) as error:
        find_layout(str(written(tmp_path, **{"rows": [row()], "columns": [CLT], **change})), ["digits_glt"])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_table_is_like_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not say itself is that table's, which may be like a third, but not like the first."""
    (tmp_path / "recipes" / "tables").mkdir(parents=True)
    monkeypatch.setenv("GLT_PATH", str(tmp_path))
    (mine := tmp_path / "recipes" / "tables" / "mine.yaml").write_text(
        "{like: overall, seeds: [7], set: {optim.lr: 0.3}}"
    )
    made, liked = find_layout("mine", ["digits_glt"]), shipped.layout_of("overall")
    assert "mine" in open_tables() and made.columns == liked.columns and made.seeds == [7]
    assert [(one.recipe, one.twin, one.budget) for one in made.rows] == [
        (one.recipe, one.twin, one.budget) for one in liked.rows
    ]
    assert all(one.set["optim.lr"] == 0.3 for one in made.rows)
    assert set(made.tried_on("digits_glt").values()) == {1} < set(liked.tried_on("digits_glt").values())
    columns = [{"data": "digits_glt", "train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}]
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump({"like": "overall", "columns": columns}))
    assert find_layout(str(tmp_path / "narrow.yaml")).tried_on("digits_glt").keys() == liked.tried_on("").keys()
    (tmp_path / "other.yaml").write_text("{like: mine, select: best}")
    other = find_layout(str(tmp_path / "other.yaml"), ["digits_glt"])
    same = {"name": "mine", "like": "overall", "select": "last"}
    assert other.select == "best" and other.model_copy(update=same) == made
    (tmp_path / "recipes" / "tables" / "yours.yaml").write_text("like: mine")
    for name in ("mine", "yours"):
        mine.write_text(f"like: {name}")
        with pytest.raises(ValueError, match=f"like: {'mine' if name == 'yours' else name} names no table"):
            find_layout("mine", ["digits_glt"])


def test_a_table_changes_rows_of_the_one_it_is_like(tmp_path: Path) -> None:
    """By their recipe: some keys of a row, or the row is left out; all else, and the order, is that one's."""
    (file := tmp_path / "mine.yaml").write_text(
        "{like: overall, rows: {glt_bbn: null, glt_crt: {seeds: [5], label: C}}}"
    )
    made, liked = find_layout(str(file), ["digits_glt"]), find_layout("overall", ["digits_glt"])
    change = {"glt_crt": {"seeds": [5], "label": "C"}}
    wanted = [one.model_copy(update=change.get(one.recipe, {})) for one in liked.rows if one.recipe != "glt_bbn"]
    assert made.rows == wanted and made.columns == liked.columns


@pytest.mark.parametrize(
    "like, rows, sentence",
    [
        ("overall", "{glt_bnb: null}", "mine.yaml: rows: glt_bnb is the recipe of no row; did you mean glt_bbn"),
        ("budgets", "{glt_ifl: null}", "mine.yaml: rows: glt_ifl is the recipe of 2 rows; legal is a list of all rows"),
        ("overall", "{glt_bbn: 3}", "mine.yaml: rows: glt_bbn: 3 is not legal: keys of a row, or null to leave it out"),
        ("overall", "{glt_bbn: {lable: B}}", "lable is no key of a table; did you mean label"),
    ],
)
def test_changes_of_rows_that_nobody_can_mean(tmp_path: Path, like: str, rows: str, sentence: str) -> None:
    """Are refused in one sentence, when the layout is read."""
    (file := tmp_path / "mine.yaml").write_text(f"{{like: {like}, rows: {rows}}}")
    with pytest.raises(ValueError) as error:
        find_layout(str(file), ["digits_glt"])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_twin_is_a_recipe_or_a_label(tmp_path: Path) -> None:
    """A recipe means its row of the same values and budget, else the one without values; a label means that row."""
    rows = [
        row(label="small rate", set={"optim.lr": 0.05}),
        row(label="plain"),
        row("glt_ifl", "a", twin="glt_baseline"),
        row("glt_ifl", "b", twin="glt_baseline", set={"optim.lr": 0.05}),
        row("glt_ifl", "+ c", twin="small rate", budget="matched"),
        row("glt_crt_ifl", "d", twin="glt_crt"),
        row(label="large rate", set={"optim.lr": 0.2}, twin="glt_baseline"),
    ]
    made = layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    twins = [made.twin_of(one) for one in made.rows]
    assert [twin and twin.label for twin in twins] == [None, None, "plain", "small rate", "small rate", None, "plain"]
    assert made.twin_recipe(made.rows[4]) == "glt_baseline" and made.twin_recipe(made.rows[5]) == "glt_crt"
    assert made.full_label(made.rows[4]) == "small rate + c"


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ([row(), row("glt_ifl", "B", twin="Baselin (0.1)")], "Baselin (0.1) is no recipe and no label"),
        ([row(label="same"), row("glt_crt", "same"), row("glt_ifl", "B", twin="same")], "2 rows have the label same"),
        ([row(label="own row", twin="own row")], "a row is not its own twin"),
    ],
)
def test_twins_that_nobody_can_find(tmp_path: Path, rows: list[dict[str, Any]], sentence: str) -> None:
    """Are refused when the layout is read."""
    with pytest.raises(ValueError) as error:
        layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    assert sentence in str(error.value)


def test_rows_of_one_label_in_two_groups_are_told_apart(tmp_path: Path) -> None:
    """By their group, wherever a row stands alone; so their counts of tried values are both there."""
    rows = [
        row(group="One", label="CE", tried={"digits_glt": 3}),
        row("glt_crt", "CE", group="$\\beta$"),
        row("glt_lws", "L"),
        row("glt_mixup", "L", group=""),
    ]
    made = layout_in(tmp_path, rows, [CLT], ["digits_glt"])
    assert list(map(made.full_label, made.rows)) == ["One: CE", "β: CE", "G: L", "L"]
    assert made.full_label(made.rows[1], latex=True) == "CE"
    assert made.tried_on("digits_glt") == {"One: CE": 3, "β: CE": 1, "G: L": 1, "L": 1}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"label": " "}, "rows.0.label: an empty label is not legal: any text is that names the row"),
        ({"seeds": [-1]}, "rows.0.seeds.0: Input should be greater than or equal to 0 (given: -1)"),
    ],
)
def test_no_label_and_no_seed_below_0(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """Are refused with their place."""
    with pytest.raises(ValueError) as error:
        layout_in(tmp_path, [row(**change)], [CLT], ["digits_glt"])
    assert sentence in str(error.value)


def test_a_twin_that_nobody_knows(tmp_path: Path) -> None:
    """Is refused where the recipes are known, with the nearest; one beside the table is legal, and so is one that only
    runs still know.
    """
    made = layout_in(tmp_path, [row(), row("glt_ifl", "B", twin="glt_baselin")], [CLT], ["digits_glt"])
    with pytest.raises(ValueError, match=r"twin of B: glt_baselin is no row .* did you mean glt_baseline"):
        made.refuse_unknown_twins(["glt_baseline", "glt_crt"])
    made.refuse_unknown_twins(["glt_baselin"])
    layout_in(tmp_path, [row("glt_crt_ifl", "B", twin="A"), row()], [CLT], ["digits_glt"]).refuse_unknown_twins([])
    for name in shipped.OPEN:
        shipped.layout_of(name).refuse_unknown_twins([])
