"""The site file's `options:`, `clusters:`, `for:` and `runs:`: what reaches the batch file, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common.errors import RecipeError
from recipes.identity import departures, science_values
from recipes.resolve import dump, resolve
from recipes.sbatch.options import OF_ALL_VERSIONS, OF_SOME_VERSIONS, OWN, REFUSED, SHORT, gpus_in, with_gpus
from recipes.schema import PROJECT, Slurm
from slurm import environment, launch, site_file, status
from slurm.cluster import build_job, sbatch_help
from slurm.cluster.origins import by_origin
from slurm.cluster.sbatch import batch_job
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run
from slurm.reuse import parse as reused
from slurm.site_file import Site
from tests.helpers.imagenet import words as build_words
from tests.helpers.launching import flags, stub

ON = ["data=digits_glt"]


@pytest.fixture()
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the site file and reads it, with the cluster that a command chooses."""
    path = tmp_path / "site.yaml"
    monkeypatch.setenv("GLT_SITE", str(path))

    def written(values: dict[str, Any], cluster: str | None = None) -> Site:
        path.write_text(yaml.safe_dump(values))
        return site_file.load(cluster)

    return written


def lines(site: Site, *words: str) -> dict[str, str | None]:
    """The #SBATCH lines of the one run of a command."""
    (run,) = requested_runs([*ON, *words], site).runs
    return flags(batch_job(run, Path(), site.for_run(run.recipe).setup).text())


# ------------------------------------------------------------------------------------------------------------- options
def test_options_reach_the_batch_file_as_they_are(site: Any) -> None:
    """From file, recipe's layers and command, in either spelling, quoted; true is a line without a value, and null
    takes a weaker layer's away."""
    values = {"comment": "a (b) c&d", "mail_type": "END,FAIL", "exclude": "n[1-3]", "exclusive": True, "nice": 5}
    found = lines(
        site({"options": values}),
        "slurm.options.exclude=null",
        "slurm.options.mail-type=ALL",
        "slurm.options.hold=true",
    )
    assert {name: found[name] for name in ("comment", "mail-type", "exclusive", "nice", "hold")} == {
        "comment": "a (b) c&d",
        "mail-type": "ALL",
        "exclusive": None,
        "nice": "5",
        "hold": None,
    }
    assert "exclude" not in found
    again = yaml.safe_load(dump(resolve(ON, {"options": values})))["slurm"]["options"]
    assert again == {
        "comment": "a (b) c&d",
        "mail-type": "END,FAIL",
        "exclude": "n[1-3]",
        "exclusive": True,
        "nice": "5",
    }


def test_options_are_no_science() -> None:
    """A run keeps its name and folder whatever its job asks for, and is told to be no other run than its recipe's."""
    with_option, without = resolve([*ON, "slurm.options.reservation=ml"]), resolve(ON)
    assert with_option.run_name == without.run_name and departures(with_option, without) == []
    assert science_values(with_option) == science_values(without)


@pytest.mark.parametrize(
    "value",
    [
        *("$(touch canary)", "`touch canary`", "a'b", 'a"b', "a\nb", "a\n#SBATCH --wrap=x", "a\\", "a#b", "a<b", "a>b"),
        *("", " ", " a", "a ", "é", "\x1b[2J", "a\tb", "a\u2028b", "x" * 1001, 1.5, ["END", "FAIL"], {"a": "b"}),
    ],
)
def test_hostile_values_are_refused(site: Any, value: object) -> None:
    """What a shell or sbatch reads as more than a word, what is no text, in one sentence with key and file."""
    with pytest.raises(RecipeError, match=r"^slurm\.options\.comment=.*legal") as caught:
        resolve(ON, site({"options": {"comment": value}}).slurm)
    assert str(caught.value).isprintable() and "site.yaml" in str(caught.value)


@pytest.mark.parametrize("name", [*REFUSED, "container-image", "container"])
def test_options_of_the_launcher_are_refused_with_the_reason(name: str) -> None:
    """From the command, as from any layer; an option with a key of its own names that key."""
    for spelling in {name, name.replace("-", "_")}:
        with pytest.raises(
            RecipeError, match=rf"^slurm\.options\.{name} \(the command line\) is not legal: "
        ) as caught:
            resolve([*ON, f"slurm.options.{spelling}=1"])
    if name in OWN:
        assert OWN[name] in Slurm.model_fields and f"slurm.{OWN[name]} is its key" in str(caught.value)


@pytest.mark.parametrize("name", ["Comment", "a b", "-x", "--comment", "", "a=b", "é", "x" * 65, 3, "$(date)"])
def test_what_is_no_option_is_refused(name: object) -> None:
    """A name that could not be one, wherever it stands."""
    with pytest.raises(RecipeError, match=r"^slurm\.options\."):
        resolve(ON, {"options": {name: "x"}})


@pytest.mark.parametrize("options", ["x", ["comment"], 3, True, None])
def test_options_that_are_no_mapping_are_refused(options: object) -> None:
    """With what would be."""
    with pytest.raises(RecipeError, match=r"^slurm\.options=.*a mapping of sbatch's long options is legal"):
        resolve(ON, {"options": options})


def test_the_two_spellings_exclude_each_other() -> None:
    """In one mapping; in two layers they are the same option."""
    with pytest.raises(RecipeError, match="mail-type is there, too"):
        resolve(ON, {"options": {"mail-type": "END", "mail_type": "FAIL"}})


HELP = "Usage: sbatch\n  -p, --partition=partition   partition requested\n      --new-one=x   of a later version\n"


def test_names_are_asked_of_this_machine_s_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its help tells is legal, and what its help leaves out though all have it; another name is refused with the
    nearest; where sbatch cannot say, the project's list counts, with the options of later versions."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def told(script: str) -> None:
        stub(tmp_path, "sbatch", script)
        sbatch_help.names_here.cache_clear()

    told(f"cat <<'E'\n{HELP}E")
    sbatch_help.refuse_unknown(["new-one", "hint", "reservation"])
    for name in ("resrvation", "segment"):
        with pytest.raises(RecipeError, match=rf"^slurm\.options\.{name} is not legal: .* in this machine's sbatch"):
            sbatch_help.refuse_unknown([name])
    with pytest.raises(RecipeError, match="did you mean reservation"):
        sbatch_help.refuse_unknown(["resrvation"])
    for broken in ("exit 1", "echo 'call the hotline: --hotline'"):
        told(broken)
        sbatch_help.refuse_unknown(["segment", "hint"])
        with pytest.raises(RecipeError, match="in any sbatch that is known"):
            sbatch_help.refuse_unknown(["new-one"])
    sbatch_help.names_here.cache_clear()


def test_the_list_holds_what_a_real_sbatch_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All options in the help of the sbatch that is here."""
    if shutil.which("sbatch") is None:
        pytest.skip("needs slurm-client (make system, as root)")
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=a\nPartitionName=p Nodes=ALL\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    sbatch_help.names_here.cache_clear()
    names = sbatch_help.names_here()
    sbatch_help.names_here.cache_clear()
    assert names and len(names) > 60
    assert names - {*OF_ALL_VERSIONS.split(), *OF_SOME_VERSIONS.split(), "nodefile"} == set()
    assert set(REFUSED) - {"tasks-per-node"} <= {*OF_ALL_VERSIONS.split(), *OF_SOME_VERSIONS.split()}


def test_the_launcher_asks_before_anything_is_made(tmp_path: Path, site: Any) -> None:
    """An option that there is not refuses a run and a build, and none that runs here."""
    file = site({"options": {"resrvation": "ml"}})
    for words in ([*ON, f"runs={tmp_path / 'runs'}"], ["build=imagenet_glt", f"source={tmp_path}", f"out={tmp_path}"]):
        with pytest.raises(RecipeError, match="did you mean reservation"):
            launch.parse([*words, "cluster=dry"], file)
        launch.parse([*words, "cluster=local"], file)
    assert not (tmp_path / "runs").exists()


def test_variables_of_options_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SBATCH_ variable goes where `options` sets that option, under whatever name SLURM has for it."""
    shell = {"SBATCH_RESERVATION": "r", "SBATCH_REQ_SWITCH": "1", "SBATCH_GPUS": "4", "SBATCH_WCKEY": "k"}
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    words = ["slurm.options.switches=1@10", "slurm.options.gres=gpu:2", "slurm.options.reservation=ml"]
    job = batch_job(Run(resolve([*ON, *words])), Path())
    assert set(environment.for_sbatch(job.decided)) & set(shell) == {"SBATCH_WCKEY"}
    assert flags(job.text())["reservation"] == "ml"
    assert set(environment.for_sbatch(batch_job(Run(resolve(ON)), Path()).decided)) >= set(shell)


# ---------------------------------------------------------------------------------------------------------------- GPUs
@pytest.mark.parametrize(
    ("words", "tasks", "line"),
    [
        (["slurm.gpus_per_node=a100:4"], 4, {"gpus-per-node": "a100:4"}),
        (["slurm.gpus_per_node=4"], 4, {"gpus-per-node": "4"}),
        (["slurm.options.gres=gpu:a100:4,nvme:1"], 4, {"gres": "gpu:a100:4,nvme:1"}),
        (["slurm.options.gres=gpu"], 1, {"gres": "gpu"}),
        (["slurm.options.gres=nvme:2"], 1, {"gres": "nvme:2"}),
        (["slurm.gpus_per_node=a100:4", "tasks_per_node=2"], 2, {"gpus-per-node": "a100:4"}),
    ],
)
def test_tasks_follow_the_gpus(words: list[str], tasks: int, line: dict[str, str]) -> None:
    """By either way to ask for them, with a type or without."""
    found = flags(batch_job(Run(resolve([*ON, *words])), Path()).text())
    assert found["ntasks-per-node"] == str(tasks) and line.items() <= found.items()
    assert not {"gpus-per-node", "gres"} - set(line) & set(found)


@pytest.mark.parametrize(
    "value", ["a100", "a100:0", "a100:65", "a100:4:2", ":4", "a100:", "a;b:4", "-1", "65", "4.5", "true"]
)
def test_gpus_that_are_no_number_are_refused(value: str) -> None:
    """With what would be legal."""
    with pytest.raises(
        RecipeError, match=r"^slurm\.gpus_per_node=.* a number from 0 to 64 is legal, or a type and a nu"
    ):
        resolve([*ON, f"slurm.gpus_per_node={value}"])


def test_two_ways_at_once_are_refused() -> None:
    """GPUs twice, and memory twice, which SLURM would refuse or add up."""
    for words, sentence in (
        (["slurm.gpus_per_node=4", "slurm.options.gres=gpu:a100:4"], "both ask for GPUs: one of the two is legal"),
        (
            ["slurm.mem=4G", "slurm.options.mem-per-cpu=1G"],
            "slurm.mem and slurm.options.mem-per-cpu exclude each other",
        ),
    ):
        with pytest.raises(RecipeError, match=sentence):
            resolve([*ON, *words])


def test_gres_is_counted_and_changed() -> None:
    """Only its GPUs."""
    assert [gpus_in(gres) for gres in ("gpu:2,gpu:a:3", "gpu:a100", "nvme:2", "gpus:2")] == [5, 1, None, None]
    assert [with_gpus("gpu:a100:4,nvme:1", number) for number in (0, 1)] == ["nvme:1", "gpu:a100:1,nvme:1"]
    assert [with_gpus("gpu:4", number) for number in (0, 1)] == [None, "gpu:1"] and with_gpus("nvme:1", 1) == "nvme:1"


# ------------------------------------------------------------------------------------------------------ clusters, for
LAYERED = {
    "partition": "file",
    "account": "file",
    "qos": "file",
    "constraint": "file",
    "options": {"comment": "file", "reservation": "file", "exclude": "file"},
    "setup": ["echo file"],
    "default": "alpha",
    "clusters": {
        "alpha": {
            **{"account": "alpha", "qos": "alpha", "constraint": "alpha", "setup": ["echo alpha"]},
            "options": {"comment": "alpha"},
            "for": {"recipe/glt_ifl": {"constraint": "alpha-ifl"}},
        },
        "beta": {"partition": "beta", "options": {"reservation": None}},
    },
    "for": {
        "data/digits_glt": {"qos": "digits", "constraint": "digits", "options": {"exclude": "digits"}},
        "recipe/glt_ifl": {"constraint": "ifl", "setup": ["echo ifl"]},
    },
}


def test_what_is_special_wins(site: Any) -> None:
    """file < cluster < for: data set < for: recipe < the cluster's own for; mappings key by key, lists whole."""
    names = ("partition", "account", "qos", "constraint", "comment", "reservation", "exclude")
    for cluster, words, wanted in (
        (None, [], ["file", "alpha", "digits", "digits", "alpha", "file", "digits"]),
        (None, ["recipe=glt_ifl"], ["file", "alpha", "digits", "alpha-ifl", "alpha", "file", "digits"]),
        ("beta", ["recipe=glt_ifl"], ["beta", "file", "digits", "ifl", "file", None, "digits"]),
        ("beta", ["slurm.qos=command"], ["beta", "file", "command", "digits", "file", None, "digits"]),
    ):
        found = lines(site(LAYERED, cluster), *words)
        assert [found.get(name) for name in names] == wanted
    for cluster, recipe, setup in (
        (None, "glt_baseline", "alpha"),
        ("beta", "glt_baseline", "file"),
        (None, "glt_ifl", "ifl"),
    ):
        file = site(LAYERED, cluster)
        assert file.for_run(resolve([*ON, f"recipe={recipe}"])).setup == (f"echo {setup}",)


def test_null_takes_modules_away(site: Any) -> None:
    """In a cluster or a block of `for:` null means none, as for the other keys."""
    values = {
        "modules": ["gcc/12.2"],
        "clusters": {"alpha": {}, "beta": {"modules": None}},
        "for": {"recipe/glt_ifl": {"modules": None}},
    }
    for cluster, recipe, wanted in (
        ("alpha", "glt_baseline", ["gcc/12.2"]),
        ("alpha", "glt_ifl", []),
        ("beta", "glt_baseline", []),
    ):
        assert resolve([*ON, f"recipe={recipe}"], site(values, cluster).slurm).slurm.modules == wanted


def test_keys_of_other_modules_stand_in_clusters_and_for_too(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader is handed what the layers say together, once for the file and once for a run; null takes a key away."""
    monkeypatch.setattr(site_file, "READERS", {"container": lambda value, path: (value, path.name)})
    file = site(
        {
            **{"container": {"image": "c", "nv": 3, "binds": 1}, "default": "alpha"},
            "clusters": {"alpha": {"container": {"image": "a", "binds": None}}, "beta": {"container": None}},
            "for": {"recipe/glt_ifl": {"container": {"nv": 5}}, "build": {"container": None}},
        }
    )
    assert file.own == {"container": ({"image": "a", "nv": 3}, "site.yaml")}
    assert file.for_run(resolve([*ON, "recipe=glt_ifl"])).own["container"][0] == {"image": "a", "nv": 5}
    assert file.for_build().own == {} and site_file.load("beta").own == {}
    assert "container" not in file.slurm and resolve(ON, file.slurm).run_name


def test_a_cluster_s_data_and_command_are_its_own(site: Any) -> None:
    """Where data lie is said for a cluster or a data set, and so is the command that brings them."""
    file = site(
        {
            "default": "alpha",
            "clusters": {"alpha": {"data": {"root": "/alpha", "cache_gb": 7}}},
            "for": {"data/digits_glt": {"data": {"root": "pipe:cat /store/{path}"}}},
        }
    )
    recipe = resolve(ON, file.slurm)
    assert (recipe.data.root, recipe.data.cache_gb, file.pipe) == ("pipe:", 7, None)
    assert file.for_run(recipe).pipe == "cat /store/{path}" and "GLT_PIPE" in file.for_run(recipe).setup[-1]
    assert requested_runs(ON, file).runs[0].pipe == "cat /store/{path}"
    assert resolve(["data=imagenet_glt"], file.slurm).data.root == "/alpha"


@pytest.mark.parametrize(
    ("values", "cluster", "words"),
    [
        ({"clusters": {"alpha": {}, "beta": {}}}, "alhpa", "site=alhpa is not legal .*did you mean alpha"),
        ({"partition": "p"}, "alpha", "site=alpha is not legal .*the file has no `clusters:`"),
        ({"clusters": {"alpha": {}}, "default": "beta"}, None, "default=beta is not legal .*legal: alpha"),
        ({"clusters": {"alpha": {}}, "default": ["alpha"]}, None, r"default=\['alpha'\] is not legal"),
        ({"clusters": ["alpha"]}, None, "clusters is not legal"),
        ({"clusters": {"alpha": "gpu"}}, None, r"clusters\.alpha is not legal"),
        ({"clusters": {"a b": {}}}, None, "clusters.a b is not legal"),
        ({"clusters": {3: {}}}, None, "clusters.3 is not legal"),
        (
            {"clusters": {"alpha": {"partitoin": "x"}}},
            None,
            "clusters.alpha: partitoin is not legal: did you mean partit",
        ),
        ({"clusters": {"alpha": {"": "x"}}}, None, "clusters.alpha:  is not legal"),
        ({"clusters": {"alpha": {"default": "x"}}}, None, "clusters.alpha: default is not legal"),
        ({"for": {"dta/x": {}}}, None, "for.dta/x is not legal: did you mean data/NAME"),
        ({"for": {"glt_ifl": {}}}, None, "for.glt_ifl is not legal"),
        ({"for": {"data/": {}}}, None, "for.data/ is not legal"),
        ({"for": {"build/featurs": {}}}, None, "for.build/featurs is not legal: did you mean build/features"),
        ({"for": {"data/digits_glt": {"tme": 3}}}, None, "for.data/digits_glt.tme is not legal: did you mean time"),
        ({"clusters": {"b": {"time": "never"}}}, None, r"slurm\.time=never \(.*clusters\.b\)"),
        ({"clusters": {"b": {"options": {"nodes": 3}}}}, None, r"slurm\.options\.nodes.*\(.*clusters\.b\)"),
        ({"clusters": {"b": {"container": 3}}}, None, "container=3 is not legal"),
        ({"clusters": {"b": {"notify": 3}}}, None, "notify is no text"),
        ({"clusters": {"b": {"for": {"data/x": {"look": {"disc": 1}}}}}}, None, r"look\.disc is not legal"),
        ({"for": {"build/features": {"time": "x"}}}, None, r"slurm\.time=x \(.*for\.build/features\)"),
        ({"for": {"recipe/none_here": {"mem": "much"}}}, None, r"slurm\.mem=much"),
        ({"for": {"data/digits_glt": ["time"]}}, None, r"for\.data/digits_glt is not legal"),
        ({"for": {"build": {"setup": "date"}}}, None, "for.build.setup='date' is not a list of shell lines"),
        ({"runs": 3}, None, "runs=3 is not legal"),
        ({"runs": ""}, None, "runs='' is not legal"),
        ({"runs": "runs"}, None, "runs=runs is not legal"),
        ({"runs": "/x/$GLT_NONE"}, None, r"runs=/x/\$GLT_NONE is not legal"),
    ],
)
def test_slips_are_one_sentence(site: Any, values: dict[str, Any], cluster: str | None, words: str) -> None:
    """With the file, the place and the nearest legal word, also in a cluster that was not chosen."""
    with pytest.raises(RecipeError, match=words) as caught:
        site(values, cluster)
    assert "site.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_cluster_must_be_chosen_to_submit(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where several are described and there is no default; what runs here needs none. Without a file there is none."""
    file = site({"clusters": {"alpha": {}, "beta": {}}})
    build = ["build=imagenet_glt", f"source={tmp_path}", f"out={tmp_path}"]
    for words in (ON, build):
        with pytest.raises(RecipeError, match=r"^site= is missing: .* describes the clusters alpha, beta"):
            launch.parse([*words, "cluster=dry"], file)
        launch.parse([*words, "cluster=local"], file)
    monkeypatch.setenv("GLT_SITE", "")
    assert launch.main([*ON, "cluster=dry", "site=alpha"]) == 2
    assert "site=alpha is not legal: there is no site file" in capsys.readouterr().err


def test_a_cluster_must_be_chosen_to_find_its_runs(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where clusters keep their runs apart and there is no default, status and tidy= ask which is meant, but for a
    folder that is named; clusters that share a folder need no word."""
    for name in ("alpha", "beta/a-run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "beta" / "a-run" / "recipe.yaml").write_text("{}")
    clusters = {name: {"runs": str(tmp_path / name)} for name in ("alpha", "beta")}
    monkeypatch.setenv("GLT_SITE", str(site({"clusters": clusters}).path))
    for command, words in ((status, []), (status, ["why=a-run"]), (launch, ["tidy=show"])):
        assert command.main(words) == 2
        said = capsys.readouterr()
        assert "site= is missing" in said.err and "alpha, beta" in said.err and said.out == ""
    for words in (["site=beta"], [f"runs={tmp_path / 'beta'}"], [f"why={tmp_path / 'beta' / 'a-run'}"]):
        assert status.main(words) == 0 and "a-run" in capsys.readouterr().out
    for words in (["tidy=show", "site=beta"], ["tidy=show", f"runs={tmp_path / 'beta'}"]):
        assert launch.main(words) == 0
    site({"runs": str(tmp_path / "beta"), "clusters": {"alpha": {}, "beta": {}}})
    assert status.main([]) == 0 and "a-run" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["", "  "])
def test_a_key_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Of two blocks of a file the first would be lost without a word; so at any depth."""
    path = tmp_path / "site.yaml"
    head = "for:\n" if where else ""
    path.write_text(f"{head}{where}build: {{}}\n{where}data: {{}}\n{where}build: {{time: 3}}\n")
    monkeypatch.setenv("GLT_SITE", str(path))
    with pytest.raises(RecipeError, match=f"build is given twice, first in line {2 if where else 1}: once") as caught:
        site_file.load()
    assert str(path) in str(caught.value)


def test_a_block_for_nothing_here_is_named(site: Any) -> None:
    """A file may be shared, so a recipe or data set that is not here is no fault; but it may be a slip."""
    file = site({"for": {"recipe/glt_ilf": {"time": 3}, "data/digits_glt": {}, "recipe/glt_ifl": {}, "build": {}}})
    (said,) = file.unmet([resolve(ON)])
    assert said.startswith(f"{file.path}: for.recipe/glt_ilf holds for nothing that is here; did you mean glt_")
    assert file.unmet([resolve(ON).model_copy(update={"recipe": "glt_ilf"})]) == []


def test_builds_take_their_own_blocks(site: Any, tmp_path: Path) -> None:
    """`for: build` and `build/STAGE` reach each stage's file, workers and setup follow; GPUs are the features' alone,
    of the type and in the form asked for; blocks of data sets and recipes are for runs."""
    file = site(
        {
            **{"partition": "gpu", "gpus_per_node": "a100:4", "options": {"comment": "c", "gpu-bind": "single:1"}},
            "for": {
                "build": {"partition": "cpu", "cpus_per_task": 2, "options": {"comment": "build"}},
                "build/features": {"partition": "gpu", "cpus_per_task": 5, "setup": ["echo features"]},
                **{"data/imagenet_glt": {"partition": "wrong"}, "recipe/glt_baseline": {"partition": "wrong"}},
            },
        }
    )
    (tmp_path / "source").mkdir()
    words = ["build=imagenet_glt", *build_words(tmp_path / "source", tmp_path / "out")[1:], "cluster=dry"]
    words = [word for word in words if not word.startswith("workers=")]
    build = build_job.parse_command(words, file)
    jobs = {stage.name: build_job._job(build, stage, Path(), None) for stage in build.plan}
    found = {name: flags(job.text()) for name, job in jobs.items()}
    assert [found[name]["partition"] for name in ("index", "features", "pack")] == ["cpu", "gpu", "cpu"]
    assert all(one["comment"] == "build" for one in found.values())
    assert [(one.get("gpus-per-node"), one.get("gpu-bind")) for name, one in found.items() if name != "features"] == [
        (None, None)
    ] * (len(found) - 1)
    assert (found["features"]["gpus-per-node"], found["features"]["gpu-bind"]) == ("a100:1", "single:1")
    assert all("gpus_per_node" in job.decided for job in jobs.values())
    assert {stage.name: stage.parts[0][-1] for stage in build.plan}["features"] == "workers=5"
    assert "echo features" in jobs["features"].text() and "echo features" not in jobs["pack"].text()


# ---------------------------------------------------------------------------------------------------- #SBATCH and runs
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("#SBATCH --mem=64G", "`mem: 64G` says it"),
        ("  #SBATCH -A vision  # who pays", "`account: vision` says it"),
        ("#SBATCH --cpus-per-task 8", "`cpus_per_task: 8` says it"),
        ("#SBATCH --signal=USR1@90", "`signal_delay_s: 90` says it"),
        ("#SBATCH --mail-type=END,FAIL", "`options: {mail-type: 'END,FAIL'}` says it"),
        ("#SBATCH -x node[1-3]", "`options: {exclude: 'node[1-3]'}` says it"),
        ("#SBATCH --exclusive", "`options: {exclusive: true}` says it"),
        (
            "#SBATCH --mail-type=END --mail-user=a@b.c",
            "`options: {mail-type: END}` says it; `options: {mail-user: a@b.c}`",
        ),
        (
            "#SBATCH -pgpu --time 2:00:00 --frob=1",
            "`partition: gpu` says it; `time: 2:00:00` says it; sbatch has no option",
        ),
        ("#SBATCH -p", "`partition` is the key of --partition"),
        ("#SBATCH --mem=$X", "`mem` is the key of --mem"),
        ("#SBATCH --comment='long tails'", "`options: {comment: long tails}` says it"),
        ("#SBATCH --comment=$X", "`options:` holds --comment, but not with this value: only letters, digits"),
        ("#SBATCH --reservatoin=ml", "sbatch has no option --reservatoin: did you mean reservation?"),
        ("#SBATCH --comment='a", "`options:` holds sbatch's options by their long names"),
        ("#SBATCH --nodes=4", "--nodes is not to be set: nodes= and tasks_per_node= are its words"),
        ("#SBATCH", "`options:` holds sbatch's options by their long names"),
    ],
)
def test_hidden_sbatch_lines_are_refused(site: Any, line: str, instead: str) -> None:
    """With the key to use instead, which is then legal as it is written."""
    with pytest.raises(RecipeError, match=re.escape(instead)):
        site({"setup": ["date", line]})
    if instead.endswith("` says it"):
        resolve(ON, yaml.safe_load(instead.split("`")[1]))
    assert set(SHORT.values()) <= set(OF_ALL_VERSIONS.split())


def test_runs_lie_where_the_site_says(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the launcher, the status and `eval=`; a command's word still wins, and a cluster has its own."""
    monkeypatch.setenv("GLT_USER", "me")
    runs = tmp_path / "me" / "alpha"
    file = site(
        {
            "runs": str(tmp_path / "none"),
            "default": "a",
            "clusters": {"a": {"runs": f"{tmp_path}/$GLT_USER/alpha"}, "b": {"runs": "/scratch/$GLT_NOT_HERE"}},
        }
    )
    assert resolve(ON, file.slurm).run_folder.parent == runs == file.runs
    assert resolve([*ON, f"runs={tmp_path}"], file.slurm).run_folder.parent == tmp_path
    (runs / "one").mkdir(parents=True)
    (runs / "one" / "recipe.yaml").write_text("")
    assert status.parse([]) == status.Look(runs, None) and status.parse([f"runs={tmp_path}"]).runs == tmp_path
    with pytest.raises(status.StatusError, match="did you mean a"):
        status.parse(["site=aa"])
    with pytest.raises(RecipeError, match="eval=one: the run is not finished"):
        reused(["eval=one"], file)


# ------------------------------------------------------------------------------------------------------- cluster=dry
def test_dry_names_the_origin_of_each_line(site: Any) -> None:
    """Each #SBATCH line is under one origin: file, cluster, block, recipe, command, schema or launcher."""
    file = site(LAYERED)
    words = [*ON, "recipe=glt_ifl", "nodes=2", "slurm.options.hold=true"]
    (run,) = requested_runs(words, file).runs
    job = batch_job(run, Path(), file.for_run(run.recipe).setup)
    command = launch.Training([run], None, file)
    said = by_origin(job, launch._merged(command, run))
    path = file.path
    found = dict(line.strip().split(": ", 1) for line in said[1:])
    assert found == {
        f"{path}": "partition, reservation",
        f"{path}, clusters.alpha": "account, comment",
        f"{path}, clusters.alpha, for.recipe/glt_ifl": "constraint",
        f"{path}, for.data/digits_glt": "exclude, qos",
        "the command line": "hold, nodes",
        "the schema's defaults": "cpus-per-task, ntasks-per-node, signal, time",
        "the launcher, which must own them": "error, job-name, open-mode, output, requeue",
    }
    assert sum(len(names.split(", ")) for names in found.values()) == job.text().count("#SBATCH")
    assert file.named([run.recipe]) == f"{path}, clusters.alpha, for.data/digits_glt, for.recipe/glt_ifl"


def test_dry_shows_the_batch_file_of_each_array(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two stages both, with where their lines come from; of plain jobs, which may be hundreds, the first alone."""
    monkeypatch.setenv("GLT_SITE", str(site(LAYERED).path))
    words = [*ON, "recipe=glt_crt", "seeds=0,1,2", "slurm.time=90", f"runs={tmp_path}", "cluster=dry"]
    assert launch.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.count("#SBATCH --array=0-2") == 2
    # a first stage has as many nodes as the second, by the command that the launcher makes for it
    assert re.findall("#   the command line: (.*)", shown) == ["nodes, time", "time"]
    assert shown.count(", for.data/digits_glt: ") == 2
    assert [step for step in ("slurm.cluster.needs", "slurm.cluster.requeue") if step in shown] == [
        "slurm.cluster.needs",
        "slurm.cluster.requeue",
    ]
    assert launch.main([*words, "slurm.arrays=false"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("#SBATCH --job-name=") == 1 and "the other 5 plain jobs" in shown


def test_the_worked_example_of_the_page_is_what_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/site-file.md: its site file makes the lines that it shows, for both clusters."""
    text = (PROJECT / "docs" / "site-file.md").read_text()
    example = text[text.index("## A worked example") :]
    blocks = re.findall(r"```(\w+)\n(.*?)```", example, re.DOTALL)
    (file,) = (block for kind, block in blocks if kind == "yaml")
    command, alpha, beta = (block for kind, block in blocks if kind == "text")
    path = tmp_path / "site.yaml"
    path.write_text(file)
    monkeypatch.setenv("GLT_SITE", str(path))
    words = command.split()[2:]
    shown = {}
    for name in ("alpha", "beta"):
        assert launch.main([*words, f"site={name}"]) == 0
        out = capsys.readouterr().out
        part = out[out.index("# where the") : out.index("# setup")]
        assert " apptainer exec --bind " in out and " --nv /shared/images/glt.sif " in out and "bin/tell" not in out
        shown[name] = re.sub("-s0-[0-9a-f]{8}", "-s0-HASH", part.replace(str(path), "/shared/site.yaml")).strip()
    assert shown["alpha"] == alpha.strip()
    differ = [line for line in shown["beta"].splitlines() if line not in shown["alpha"].splitlines()]
    assert [line for line in differ if line.startswith("#SBATCH")] == beta.strip().splitlines()
