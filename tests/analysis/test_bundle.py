"""The bundle for reviewers: its tables come out of it again, its bytes repeat, and an anonymous one tells nobody."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.__main__ import main
from analysis.publishing import bundle
from analysis.publishing.anonymous import clean, clean_run, left_in, names_of
from recipes.resolve import dump
from slurm.planning.requested_runs import requested_runs
from slurm.site_file import Site
from tests.helpers.paths import GOLDEN, PROJECT
from tests.helpers.tables import MOST, write_run

TABLE = f"table={GOLDEN / 'tables' / 'digits_overall.yaml'}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real runs, one of them made by somebody somewhere; and one that is not finished."""
    runs = tmp_path_factory.mktemp("somewhere") / "runs"
    shutil.copytree(GOLDEN / "runs", runs)
    run = sorted(runs.iterdir())[1]
    recipe, meta = yaml.safe_load((run / "recipe.yaml").read_text()), json.loads((run / "meta.json").read_text())
    recipe["runs"], recipe["slurm"]["account"], recipe["slurm"]["partition"] = (
        "/home/jdoe/my runs",
        "proj4242",
        "ourlab",
    )
    recipe["data"]["root"], recipe["log"]["wandb"] = "https://store.lab.edu/glt", "secret-project"
    meta["machine"]["node"] = "gpu17.lab.edu"
    meta["argv"] = ["/home/jdoe/my glt/slurm/launch.py", "slurm.account=proj4242", "data.root=/scratch/jdoe/glt"]
    meta["argv"] += ["recipe=glt_ifl", "mail me: j.doe@lab.edu"]
    meta["uncommitted"] = {"/home/jdoe/methods/mine.py": "changed on gpu17 by jdoe"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "meta.json").write_text(json.dumps(meta))
    (run / "log").mkdir()
    start = {"event": "start", "incarnation": "1.0", "time": 0.0, "step": 0}
    failed = {**start, "event": "failed", "time": 3600.0, "error": "No space in /home/jdoe", "ends": ["gpu17: task 0"]}
    (run / "log" / "events.jsonl").write_text(f"{json.dumps(start)}\n{json.dumps(failed)}\n")
    late = {"kind": "clock", "text": "its clock is 9 s ahead of that of atlas-gpu08", "hard": False}
    nodes = [{"node": "n1", "faults": [late]}, {"node": "atlas-gpu08.lab.edu", "faults": []}]
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"kind": "boot", "epoch": 0, "step": 0, "nodes": nodes}) + "\n")
    unfinished = runs / "glt_mixup-digits_glt-glt-s0-01234567"
    shutil.copytree(run, unfinished)
    (unfinished / "done").unlink()
    return runs


def unpacked(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file) as bundle:
        bundle.extractall(folder)
    return folder


def made_again(bundle: Path, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Unpack a bundle and make its tables again by its README's command; return where it lies, and the tables."""
    unpacked(bundle, folder / "bundle")
    words = re.search(r"^python -m analysis (.*)$", (folder / "bundle" / "README.md").read_text(), re.MULTILINE)
    assert words is not None
    main(words[1].replace("BUNDLE", str(folder / "bundle")).replace("out=again", f"out={folder / 'again'}").split())
    again = {path.name: path.read_bytes() for path in (folder / "again").iterdir() if path.name != "problems.txt"}
    assert again == {path.name: path.read_bytes() for path in (folder / "bundle" / "tables").iterdir()}
    return folder / "bundle", again


@pytest.fixture(scope="module")
def anonymous(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "bundle.zip"
    main(["bundle", f"runs={runs}", f"out={out}", TABLE, "anonymous=yes", "license=digits_glt:CC-BY-4.0"])
    return out


def test_tables_come_out_of_the_bundle_again(anonymous: Path, tmp_path: Path) -> None:
    """By the command of its README, byte for byte, the ledger among them; and they are the tables of the runs."""
    folder, again = made_again(anonymous, tmp_path)
    command = "python -m analysis runs=BUNDLE/runs out=again only=tables table=BUNDLE/layouts/digits_overall.yaml\n"
    assert command in (folder / "README.md").read_text()
    assert again["digits_overall.csv"] == (GOLDEN / "out" / "digits_overall.csv").read_bytes()


def test_the_same_bundle_twice_is_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    """Whenever and in whatever order the files were made; and its manifest names every file with its digest."""
    shutil.copytree(runs, tmp_path / "copy")
    for place, out in ((runs, "one.zip"), (tmp_path / "copy", "two.zip")):
        main(["bundle", f"runs={place}", f"out={tmp_path / out}", TABLE])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as bundle:
        assert {entry.date_time for entry in bundle.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        said = dict(reversed(line.split("  ")) for line in bundle.read("MANIFEST.sha256").decode().splitlines())
        names = [name for name in bundle.namelist() if name != "MANIFEST.sha256"]
        assert said == {name: hashlib.sha256(bundle.read(name)).hexdigest() for name in names}


SECRETS = [
    "jdoe",
    "gpu17",
    "atlas",
    '"n1"',
    "lab.edu",
    "proj4242",
    "ourlab",
    "secret-project",
    "j.doe",
    "/home/",
    "/scratch",
    "somewhere",
]


def test_an_anonymous_bundle_tells_nobody(anonymous: Path, runs: Path) -> None:
    """No user, host, folder, address, account or project stands in any file of it, nor this machine's user and
    folders; one that is not anonymous has them, so the search finds what is there.
    """
    secrets = [*SECRETS, str(runs.parent), *({getpass.getuser()} - {"root"})]
    with zipfile.ZipFile(anonymous) as bundle:
        every = {name: bundle.read(name) for name in bundle.namelist()}
    assert [(name, word) for name, data in every.items() for word in secrets if word.encode() in data] == []
    meta = json.loads(next(data for name, data in every.items() if name.endswith("meta.json") and b"PATH" in data))
    assert meta["machine"]["node"] == "HOST" and meta["uncommitted"] == {"PATH": "changed on HOST by USER"}
    assert meta["argv"] == ["PATH", "recipe=glt_ifl", "mail me: MAIL"]
    open_one = anonymous.with_name("open.zip")
    main(["bundle", f"runs={runs}", f"out={open_one}", TABLE])
    with zipfile.ZipFile(open_one) as bundle:
        told = b"".join(bundle.read(name) for name in bundle.namelist())
    assert {"jdoe", "gpu17", "proj4242"} <= {word for word in SECRETS if word.encode() in told}


def test_no_line_of_a_run_names_its_nodes(tmp_path: Path) -> None:
    """In starts and events they are replaced whatever they are called, and in texts those that any line names: a later
    start's, one that was left out, one that is not this run's first.
    """
    run = write_run(tmp_path, "glt_baseline")
    (run / "log").mkdir(exist_ok=True)
    lines = {
        "metrics.jsonl": {"kind": "boot", "nodes": [{"node": "vm", "ranks": [0]}, {"node": "atlas-gpu08.lab.edu"}]},
        "log/events.jsonl": {
            "event": "verdict",
            "excluded": ["q7", "comet12"],
            "node": None,
            "ends": ["comet12: task 1"],
        },
        "log/other.jsonl": {"event": "slow", "node": "vm", "factor": 2.0, "text": "behind atlas-gpu08"},
    }
    for name, line in lines.items():
        (run / name).write_text(json.dumps(line) + "\n")
    names = names_of([run])
    assert {"atlas-gpu08.lab.edu", "atlas-gpu08", "comet12"} <= {name for name, what in names.items() if what == "HOST"}
    assert left_in("class comet12", names) == ["comet12"]
    clean_run(run, names)
    assert {name: json.loads((run / name).read_text()) for name in lines} == {
        "metrics.jsonl": {"kind": "boot", "nodes": [{"node": "HOST", "ranks": [0]}, {"node": "HOST"}]},
        "log/events.jsonl": {"event": "verdict", "excluded": ["HOST", "HOST"], "node": None, "ends": ["HOST: task 1"]},
        "log/other.jsonl": {"event": "slow", "node": "HOST", "factor": 2.0, "text": "behind HOST"},
    }


def test_the_checklist_answers_from_the_runs(anonymous: Path) -> None:
    """Seeds, error bars, selection, compute (of runs that did not finish, too), licences, commits."""
    with zipfile.ZipFile(anonymous) as bundle:
        said = bundle.read("CHECKLIST.md").decode()
        names = set(bundle.namelist())
    assert "- digits_overall: seed 0 asked for; runs behind a number: 0 to 1." in said
    assert "of one seed percentiles of 1,000 bootstrap resamples" in said and "no epoch was selected" in said
    assert "on digits_glt: no row is on record for which val chose among several values." in said
    assert "verdicts" not in said
    assert "are not in the bundle: 1 runs, 1 starts" in said and "Licence of digits_glt: CC-BY-4.0." in said
    assert "Licence of the code: Apache-2.0" in said and "of the 6 runs are in none of the tables" in said
    assert {"recipes/glt_ifl.yaml", "layouts/digits_overall.yaml", "environment/requirements.txt"} <= names


@pytest.mark.parametrize("state", ["as committed", "changed", "no checkout"])
def test_the_code_that_makes_the_tables_is_named(
    state: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README and checklist name the commit that is checked out, and apart from it those that trained; files that no
    commit has are named there and by the command.
    """
    head = "unknown" if state == "no checkout" else "c0ffee" * 6 + "0123"
    monkeypatch.setattr(bundle, "commit", lambda: head + "+changes" * (state == "changed"))
    own = {"analysis/mine.py": "untracked", "analysis/__main__.py": "changed"} if state == "changed" else {}
    monkeypatch.setattr(bundle, "uncommitted", lambda paths: own)
    main(["bundle", f"runs={runs}", f"out={tmp_path / 'b.zip'}", TABLE])
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        readme, answers = (made.read(name).decode() for name in ("README.md", "CHECKLIST.md"))
    trained = {json.loads((run / "meta.json").read_text())["commit"].partition("+")[0] for run in runs.iterdir()}
    where = "that made them (its commit is not known)" if state == "no checkout" else f"at commit {head}"
    assert f"in a checkout of the code {where} with this bundle" in readme and "+changes with" not in readme
    assert f"made by the code {where}." in answers
    for text in (readme, answers):
        line = next(line for line in text.splitlines() if "The runs were trained at commit" in line)
        assert all(commit in line for commit in trained) and "runs)" in line
    remark = "changes that no commit has, in analysis/__main__.py, analysis/mine.py."
    assert (remark in readme) == (remark in capsys.readouterr().out) == (state == "changed")


def test_the_checklist_says_how_claims_were_judged(tmp_path: Path) -> None:
    """The method of intervals and p, what each verdict means, by what p is corrected, and the power; and among how many
    values val chose.
    """
    runs = PROJECT / "examples" / "fashion_glt"
    for name in ("glt_baseline", "glt_ifl"):
        for run in runs.glob(f"{name}-fashion_glt-glt-s[012]-*"):
            shutil.copytree(run, tmp_path / "runs" / run.name)
    main(["bundle", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'b.zip'}", "table=claims", "data=fashion_glt"])
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        said = made.read("CHECKLIST.md").decode()
    assert "- Verdicts in `tables/claims_verdicts.*`. Interval and p are of Student's t" in said
    assert "one cluster" in said and "by Holm's method" in said and "reproduced: the claimed sign" in said
    assert "with a chance of 0.8" in said
    assert "- claims, on fashion_glt: val chose the recipes' values among so many: TADE 8, Deconfound-TDE 7" in said


MINE: dict[str, Any] = {
    "preset": "paper",
    "seeds": [0],
    "rows": [{"group": "Mine", "recipe": "glt_baseline", "label": "a"}],
    "columns": [{"train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}],
}


def test_a_layout_of_a_user_s_travels_with_the_bundle(runs: Path, tmp_path: Path) -> None:
    """Without its comments and with the data that the command named; the README's command names it there."""
    layout = tmp_path / "mine.yaml"
    layout.write_text(f"# by jdoe\n{yaml.safe_dump(MINE)}")
    main(["bundle", f"runs={runs}", f"out={tmp_path / 'b.zip'}", f"table={layout}", "data=digits_glt", "anonymous=yes"])
    folder = unpacked(tmp_path / "b.zip", tmp_path / "bundle")
    content = {**MINE, "columns": [{**MINE["columns"][0], "data": "digits_glt"}]}
    assert yaml.safe_load((folder / "layouts" / "mine.yaml").read_text()) == content
    assert "only=tables table=BUNDLE/layouts/mine.yaml\n" in (folder / "README.md").read_text()
    assert "jdoe" not in (folder / "layouts" / "mine.yaml").read_text()


@pytest.mark.parametrize("named", ["table=like_mine", "table={}/odd", ""], ids=["by name", "no suffix", "by the runs"])
def test_a_reviewer_needs_no_layout_of_the_author_s(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of the author's own folder, ones that are like them, and paths without a suffix come out of the bundle
    again in a plain checkout.
    """
    write_run(tmp_path / "runs", "mine", data="birds")
    (tables := tmp_path / "own" / "recipes" / "tables").mkdir(parents=True)
    rows, columns = [{**MINE["rows"][0], "recipe": "mine"}], [{**MINE["columns"][0], "data": "birds"}]
    (tables / "mine.yaml").write_text(yaml.safe_dump({**MINE, "rows": rows, "columns": columns}))
    (tables / "like_mine.yaml").write_text("{like: mine, seeds: [0, 1]}")
    (tmp_path / "odd").write_text("{like: mine, seeds: [0, 1]}")
    monkeypatch.setenv("GLT_PATH", str(tmp_path / "own"))
    words = [named.format(tmp_path)] * bool(named)
    main(["bundle", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'b.zip'}", *words])
    monkeypatch.delenv("GLT_PATH")
    _, again = made_again(tmp_path / "b.zip", tmp_path)
    assert b",50.0," in again["odd.csv" if "odd" in named else "like_mine.csv"]


def test_a_bundle_of_the_best_epoch_has_its_numbers(tmp_path: Path) -> None:
    """`select=best` copies those predictions, too: its table is that of the whole run folders."""
    write_run(tmp_path / "runs", "glt_baseline", best=MOST)
    (layout := tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE))
    words = [f"table={layout}", "data=digits_glt", "select=best"]
    main(["bundle", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'b.zip'}", *words])
    _, again = made_again(tmp_path / "b.zip", tmp_path)
    main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'whole'}", *words, "only=tables"])
    assert again["mine.csv"] == (tmp_path / "whole" / "mine.csv").read_bytes() and b",80.0," in again["mine.csv"]


def test_a_layout_tells_no_folder_of_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of weights that rows or the table set, an anonymous bundle has the digest and no place; without the files the
    same runs still stand in their rows. A folder in a label stays, and the command says so.
    """
    lab = tmp_path / "alice-lab"
    lab.mkdir()
    for name in ("one", "other"):
        (lab / name).write_bytes(name.encode())
    rows = [
        {"group": "Mine", "recipe": "glt_baseline", "label": "One", "set": {"optim.lr": 0.2}},
        {"group": "Mine", "recipe": "glt_baseline", "label": "as /etc/x", "set": {"model.weights": str(lab / "other")}},
    ]
    values = {"model.weights": str(lab / "one")}
    (layout := tmp_path / "mine.yaml").write_text(yaml.safe_dump({**MINE, "rows": rows, "set": values}))
    planned = requested_runs([f"table={layout}", "data=digits_glt", f"runs={tmp_path}"], Site()).runs
    for run in planned:
        path = write_run(tmp_path / "runs", run.recipe.recipe, hash_=run.recipe.hash8)
        (path / "recipe.yaml").write_text(dump(run.recipe))
    words = [f"table={layout}", "data=digits_glt", "anonymous=yes"]
    (lab / "other").unlink()  # the runs know its digest
    main(["bundle", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'b.zip'}", *words])
    assert "/etc/x still stands in layouts/mine.yaml and " in (said := capsys.readouterr().out)
    assert said.count("still stands") == 1
    shutil.rmtree(lab)
    folder, again = made_again(tmp_path / "b.zip", tmp_path)
    every = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [name for name, data in every.items() if b"alice-lab" in data] == []
    assert [run.folder.name in again["mine.csv"].decode() for run in planned] == [True, True]
    sets = [row["set"] for row in yaml.safe_load((folder / "layouts" / "mine.yaml").read_text())["rows"]]
    digests = [run.recipe.model.weights_sha256 for run in planned]
    assert [own["model.weights_sha256"] for own in sets] == digests and len(set(digests)) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["out=b.tar"], "out=b.tar: legal is the name of a .zip"),
        (["out=b.zip", "anonymous=no"], "anonymous=no: legal is anonymous=yes, or leave it out"),
        (["out=b.zip", "license=MIT"], "license=MIT: legal is DATA:NAME, such as license=digits_glt:CC-BY-4.0"),
        (["out=b.zip", "license=digits:MIT"], "license=digits: none of these runs is on it"),
    ],
    ids=["ending", "anonymous", "license", "data"],
)
def test_what_is_not_legal_is_told(words: list[str], said: str, runs: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ValueError, match=re.escape(said)):
        main(["bundle", f"runs={runs}", *words])


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("data.root=/a b/c", "data.root=PATH"),
        ("see /a/b, then", "see PATH, then"),
        ("~/x", "PATH"),
        ("and/or 1/2 a / b", "and/or 1/2 a / b"),
        ("http://h.org/x", "ADDRESS"),
        ("on h1.", "on HOST."),
        ("h12 ah1", "h12 ah1"),
    ],
)
def test_texts_are_cleaned(text: str, cleaned: str) -> None:
    """Paths from the root, addresses, and names as whole words; nothing else."""
    assert clean(text, {"h1": "HOST"}) == cleaned
