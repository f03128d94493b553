"""The words of a build of any labelled images: which are legal, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.building.request import builder_of, parse, stages_of
from sharding.building.samples_words import SPLITS, Samples, absolute, file_of
from sharding.datasets.samples.long_tail import LongTail, parsed
from slurm.cluster.build_job import parse_command
from slurm.site_file import Site

GIVEN = ["data=birds", "source=/data/birds", "out=o"]


def test_words_become_a_request(tmp_path: Path) -> None:
    """Every word is read by its kind; a share stays a share and a count a whole number."""
    words = ["columns=path:a,label:b", "classes=leaf", "long_tail=pareto:256", "groups=shots", "attributes=clusters"]
    words += ["clusters=4", "attribute_tail=7:2:1", "val=0.1", "test_cbl=20", "seed=3", "quality=80"]
    name, request = parse([*GIVEN, *words])
    assert (name, request.builder, request.seed, request.quality) == ("birds", "samples", 3, 80)
    assert request.samples == Samples(
        source=((Path("/data/birds"), ""),),
        columns=(("path", "a"), ("label", "b")),
        classes="leaf",
        long_tail="pareto:256",
        groups="shots",
        attributes="clusters",
        clusters=4,
        attribute_tail=(7, 2, 1),
        val=0.1,
        test_cbl=20,
    )
    assert isinstance(request.samples.test_cbl, int)


def test_an_attribute_tail_is_kept_in_lowest_terms() -> None:
    """70:20:10 is 7:2:1, so that a set built with one is not built again for the other."""

    def tail(text: str) -> tuple[int, int, int] | None:
        return parse([*GIVEN, "attributes=clusters", f"attribute_tail={text}"])[1].samples.attribute_tail

    assert tail("70:20:10") == tail("7:2:1") == (7, 2, 1) and tail("5:5:5") == (1, 1, 1) and tail("natural") is None


def test_what_a_word_says_comes_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is recorded, for the jobs of a cluster and for the cut alike; `./100` is the file."""
    monkeypatch.chdir(tmp_path)
    names = {
        "long_tail": ("none", "100", "pareto:9"),
        "head": ("seed", "frequency"),
        "features": ("pixels", "resnet50"),
    }
    for word, texts in names.items():
        for text in texts:
            Path(text).write_text("a,3\nb,2\n")
            assert file_of(word, text) is None and absolute(word, text) == text
    assert parsed("100", "ab") == LongTail("100", "exponential", 100.0)
    assert parsed("./100", "ab").counts == {"a": 3, "b": 2}
    assert absolute("long_tail", "./100") == str(tmp_path / "100") and file_of("head", "./seed") == Path("seed")
    assert parse([*GIVEN, "long_tail=./100"])[1].samples.long_tail == "./100"
    Path("of:9").write_text("a,3\nb,2\n")
    assert parse([*GIVEN, "long_tail=of:9"]) and parsed("of:9", "ab").counts == {"a": 3, "b": 2}, "`of` is no curve"


def test_sources_with_their_splits(tmp_path: Path) -> None:
    """Several files are parted by commas, each with its split or without; a file with a comma in its name stands
    alone.
    """

    def source(text: str) -> tuple[tuple[Path, str], ...]:
        return parse(["data=birds", f"source={text}", "out=o"])[1].samples.source

    assert source("train:a.txt,val:b.txt") == ((Path("a.txt"), "train"), (Path("b.txt"), "val"))
    assert source("a.txt,b.txt") == ((Path("a.txt"), ""), (Path("b.txt"), ""))
    assert source("other:a.txt") == ((Path("other:a.txt"), ""),)
    (tmp_path / "a,b").mkdir()
    assert source(f"{tmp_path}/a,b") == ((tmp_path / "a,b", ""),)
    assert SPLITS == ("train", "val", "test")


def test_a_source_in_what_the_build_writes_is_refused(tmp_path: Path) -> None:
    """Of every builder, through a link, too: a build could take the source's files for its own. One beside is legal."""
    inside = tmp_path / "birds" / "raw" / "train"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inside)
    for source in (inside, tmp_path / "birds", tmp_path / "link"):
        with pytest.raises(DataError, match=rf"source={source} lies in {tmp_path}/birds, which the build writes"):
            parse(["data=birds", f"source=train:{source}", f"out={tmp_path}"])
    with pytest.raises(DataError, match="which the build writes; one outside of it would be legal"):
        parse(["data=imagenet_glt", f"source={tmp_path}/imagenet_glt/raw", f"out={tmp_path}"])
    assert parse(["data=birds2", f"source={inside}", f"out={tmp_path}"])


def test_old_builders_keep_their_words() -> None:
    """`attributes=` of mscoco_glt is a file, and `scale=` is a word of the old builders alone."""
    assert parse(["data=mscoco_glt", "out=o", "attributes=clusters"])[1].attributes == Path("clusters")
    assert parse(["data=imagenet_glt", "out=o", "source=s", "scale=0.1"])[1].scale == 0.1
    with pytest.raises(DataError, match=r"scale=0\.1 cannot be used: samples takes"):
        parse([*GIVEN, "scale=0.1"])
    with pytest.raises(DataError, match="long_tail=10 cannot be used: digits_glt takes"):
        parse(["data=digits_glt", "out=o", "long_tail=10"])


@pytest.mark.parametrize("name", ["digits_gl", "digits_gltt", "dgits_glt", "imagenet_lt", "mscoco_glt1"])
def test_a_slip_of_a_builders_name(name: str) -> None:
    """A name within two letters of a builder's is refused; builder=samples says that it is meant."""
    with pytest.raises(DataError, match=r"did you mean (digits|imagenet|mscoco)_glt\?.*builder=samples"):
        builder_of({"data": name})
    assert builder_of({"data": name, "builder": "samples"}) == "samples"


def test_other_names_are_data_sets_of_their_own() -> None:
    """Any other legal name means the samples builder, the builders' own names their own."""
    assert {builder_of({"data": name}) for name in ("birds", "fashion_glt", "a", "0")} == {"samples"}
    assert builder_of({"data": "digits_glt"}) == "digits_glt"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data=Birds"], "data=Birds is not legal: a name has lower-case letters, digits and _"),
        (["data=../x"], "is not legal: a name has"),
        (["data=birds"], "data=birds: source= is missing"),
        ([*GIVEN, "builder=digits_glt"], "builder=digits_glt is not legal: samples"),
        ([*GIVEN, "long_tail=0.5"], "a ratio from 1 on is"),
        ([*GIVEN, "long_tail=gauss:5"], "there is no curve gauss; legal: exponential, pareto"),
        ([*GIVEN, "long_tail=nan"], "none, a ratio such as 100, CURVE:RATIO"),
        ([*GIVEN, "long_tail=pareto:"], "none, a ratio such as 100, CURVE:RATIO"),
        ([*GIVEN, "long_tail=paretto:9"], "there is no curve paretto; did you mean pareto?"),
        ([*GIVEN, "long_tail=lots"], "none, a ratio such as 100, CURVE:RATIO"),
        ([*GIVEN, "head=nowhere.txt"], "frequency, seed, or a file"),
        ([*GIVEN, "groups=third"], "did you mean thirds?"),
        ([*GIVEN, "columns=pth:a"], "did you mean path?"),
        ([*GIVEN, "columns=path"], "path lacks its column"),
        ([*GIVEN, "columns=path:a,path:b"], "a field is named twice"),
        ([*GIVEN, "attributes=cluster"], "did you mean clusters?"),
        ([*GIVEN, "clusters=5"], "clusters= says how clusters are made: it needs attributes=clusters"),
        ([*GIVEN, "test_gbl=5"], "test_gbl= needs attributes=column or attributes=clusters"),
        ([*GIVEN, "attribute_tail=7:2:1"], "without attributes there are no groups of them"),
        ([*GIVEN, "attributes=column", "columns=path:a,label:b"], "columns=...,attribute:NAME"),
        (
            [*GIVEN, "columns=path:a,label:b,attribute:c"],
            "attribute:c names a column that attributes=column alone reads",
        ),
        ([*GIVEN, "attributes=clusters", "columns=label:b,attribute:c"], "that attributes=column alone reads"),
        ([*GIVEN, "attributes=clusters", "attribute_tail=1:2:7"], "three whole numbers from large to small"),
        ([*GIVEN, "attributes=clusters", "features=no.npy"], "there is no such file"),
        ([*GIVEN, "attributes=clusters", "clusters=1"], "a whole number from 2 to 127 is"),
        ([*GIVEN, "val=0"], "a share of each class above 0 and below 1, or a whole number"),
        ([*GIVEN, "val=1.5"], "a share of each class above 0 and below 1, or a whole number"),
        ([*GIVEN, "images=/no/such/folder"], "a folder that exists is"),
        (["data=birds", "source=a,a"], "a file is named twice"),
        (["data=birds", "source=a,,b"], "PATH,PATH"),
    ],
)
def test_what_is_not_legal(words: list[str], sentence: str) -> None:
    """One sentence says what would be."""
    with pytest.raises(DataError) as refused:
        parse([*words, *([] if "out=o" in words else ["out=o"])])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_stages_that_attributes_make_needless() -> None:
    """Features and clusters are stages of attributes=clusters alone."""
    assert list(stages_of([*GIVEN, "attributes=clusters"])) == [
        "index",
        "features",
        "clusters",
        "split",
        "pack",
        "finish",
    ]
    assert (
        list(stages_of(GIVEN)) == list(stages_of([*GIVEN, "attributes=none"])) == ["index", "split", "pack", "finish"]
    )


def test_jobs_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch.py build=birds` makes jobs of the stages, with paths that hold in any folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "order.txt").write_text("a\n")
    words = ["build=birds", "source=train:a.txt,val:b.txt", "out=data", "head=order.txt", "long_tail=100"]
    build = parse_command([*words, "attributes=clusters", "tasks=2", "cluster=dry"], Site())
    assert [(stage.name, len(stage.parts)) for stage in build.plan] == [
        ("index", 1),
        ("features", 2),
        ("clusters", 2),
        ("split", 1),
        ("pack", 2),
        ("finish", 1),
    ]
    first = build.plan[0].parts[0]
    assert f"source=train:{tmp_path}/a.txt,val:{tmp_path}/b.txt" in first and f"head={tmp_path}/order.txt" in first
    assert f"out={tmp_path}/data" in first and "long_tail=100" in first
