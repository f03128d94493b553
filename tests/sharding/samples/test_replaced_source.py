"""A source in another's place: its images are built in, whatever its form, and only what differs is made again; nothing
of the old one is left.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.build import build_samples, run
from tests.helpers import forms, sources
from tests.helpers.cifar import BATCHES, archive

EACH = 12
WORDS = ("val=2", "test_cbl=2")


def pictures(seed: int, side: int = 20) -> dict[str, bytes]:
    """Two classes of images, the same names for each seed."""
    return {
        f"{name}/{i}.jpg": sources.jpeg(100 * seed + 20 * k + i, size=(side, side))
        for k, name in enumerate(("ant", "bee"))
        for i in range(EACH)
    }


def folder(path: Path, seed: int, side: int = 20) -> Path:
    for name, data in pictures(seed, side).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tarred(path: Path, seed: int, mode: str = "w", with_labels: bool = False) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in pictures(seed).items():
            stem = name.removesuffix(".jpg").replace("/", "-")
            files = {f"{stem}.jpg": data, f"{stem}.cls": name[:3].encode()} if with_labels else {name: data}
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, seed: int) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in pictures(seed).items():
            packed.writestr(name, data)
    return path


def idx(path: Path, seed: int) -> Path:
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in (("train", 30), ("t10k", 20)):
        pixels, labels = rng.integers(0, 256, (count, 8, 8), np.uint8), np.arange(count, dtype=np.uint8) % 2
        for what, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
            (path / f"{split}-{what}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))
    return path


def cifar(path: Path, seed: int) -> Path:
    rng, labels = np.random.default_rng(seed), np.arange(40, dtype=np.uint8)[:, None] % 10
    files = {
        f"{name}.bin": np.concatenate([labels, rng.integers(0, 256, (40, 3072), np.uint8)], 1).tobytes()
        for name in (*BATCHES, "test_batch")
    }
    files["batches.meta.txt"] = "".join(f"class{i}\n" for i in range(10)).encode()
    return archive(path, {f"cifar-10-batches-bin/{name}": data for name, data in files.items()})


FORMS: dict[str, Callable[[Path, int], Path]] = {
    "folder": folder,
    "raw.tar": tarred,
    "raw.tar.gz": lambda path, seed: tarred(path, seed, "w:gz"),
    "raw.zip": zipped,
    "shards.tar": lambda path, seed: tarred(path, seed, with_labels=True),
    "idx": idx,
    "cifar.tar.gz": cifar,
}


def built(source: Path, out: Path, *words: str) -> dict[str, list[tuple[str, str, int, str]]]:
    """Build and return what the data set holds."""
    run(["data=birds", f"source={source}", f"out={out}", "workers=1", *(words or WORDS)])
    return forms.contents(out, "birds")


@pytest.mark.parametrize("form", FORMS)
def test_it_is_built_in(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the same path and at another one, with the same names and labels, as a fresh build has it. Of one that was
    moved no shard is made again; then, and when it is gone, there is nothing to do.
    """
    (tmp_path / "other").mkdir()
    write, out = FORMS[form], tmp_path / "data"
    source = write(tmp_path / form, 1)
    first = built(source, out)
    second = built(write(source, 2), out)
    assert first.keys() == second.keys() and second == built(source, tmp_path / "fresh")
    assert all(not {one[1] for one in first[split]} & {one[1] for one in second[split]} for split in first)
    other = write(tmp_path / "other" / form, 1)
    assert built(other, out) == first
    moved = forms.moved(other, tmp_path / f"moved {form}")
    capsys.readouterr()
    assert built(moved, out) == first and "were made again" not in capsys.readouterr().out
    built(moved, out)
    assert "nothing to do" in capsys.readouterr().out
    shutil.rmtree(moved) if moved.is_dir() else moved.unlink()
    built(moved, out)
    assert "nothing to do" in capsys.readouterr().out


def test_another_form_is_built_in(tmp_path: Path) -> None:
    """A tar of other images in place of a folder, and the folder in place of that."""
    tree, tar, out = folder(tmp_path / "raw", 1), tarred(tmp_path / "raw.tar", 2), tmp_path / "data"
    first = built(tree, out)
    assert built(tar, out) == built(tar, tmp_path / "fresh") != first
    assert built(tree, out) == first


def test_images_of_a_program_elsewhere(tmp_path: Path) -> None:
    """Paths of other images of the same names."""

    def of(tree: Path) -> list[tuple[Path, str]]:
        return [(tree / name, name[:3]) for name in pictures(0)]

    one, two, out = folder(tmp_path / "one", 1), folder(tmp_path / "two", 2), tmp_path / "data"
    found = []
    for tree in (one, two, one):
        build_samples("mine", out, of(tree), workers=1, val=2, test_cbl=2)
        found.append(forms.contents(out, "mine"))
    assert found[0] == found[2] != found[1]


# -------------------------------------------------------------------------------------------------------- what is said
CUT_AGAIN = "all splits are cut again, and models trained on the old ones have seen images of the new tests"


def test_splits_that_are_cut_again_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason: an image more, other words, and an image more where the build's own folder was deleted; not by
    the first build, nor where the bytes of an image are others.
    """
    tree, out = folder(tmp_path / "raw", 1), tmp_path / "data"
    built(tree, out)
    (tree / "ant" / "0.jpg").write_bytes(sources.jpeg(7))
    built(tree, out)
    assert "cut again" not in capsys.readouterr().out
    (tree / "ant" / "new.jpg").write_bytes(sources.jpeg(8))
    built(tree, out)
    said = capsys.readouterr().out
    assert f"the source has other images or labels than before (25, 24 before): {CUT_AGAIN}\n" in said
    assert "shards were made again because their images, or words of the command, are others than before" in said
    built(tree, out, *WORDS, "long_tail=2")
    assert f"clusters, or words of the command, are others than before: {CUT_AGAIN}\n" in capsys.readouterr().out
    shutil.rmtree(out / "birds" / ".work")
    (tree / "ant" / "more.jpg").write_bytes(sources.jpeg(9))
    built(tree, out, *WORDS, "long_tail=2")
    assert f"the source has other images or labels than before (26): {CUT_AGAIN}\n" in capsys.readouterr().out


def test_an_image_in_no_split_counts_for_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class tail leaves images out, by which clusters were found: where they are replaced, the same command gives
    what a fresh build does. Where they are gone, there is nothing to do.
    """
    tree, out = sources.two_levels(tmp_path / "raw", 30), tmp_path / "data"
    words = ("attributes=clusters", "clusters=2", "long_tail=4", "val=1", "test_cbl=1", "test_gbl=2")
    taken = {image[0] for images in built(tree, out, *words).values() for image in images}
    left = [path for path in sorted(tree.rglob("*.jpg")) if f"{path.parent.name}/{path.stem}" not in taken]
    assert len(left) > 2
    built(tree, out, *words)
    assert "nothing to do" in capsys.readouterr().out
    for i, path in enumerate(left):
        path.write_bytes(sources.of_level(5000 + i, i % 2))
    again = built(tree, out, *words)
    said = capsys.readouterr().out
    assert "images that clusters were made from, in a split or not, have other sizes or times" in said
    assert again == built(tree, tmp_path / "fresh", *words)
    assert forms.meta(out, "birds") == forms.meta(tmp_path / "fresh", "birds")
    capsys.readouterr()
    built(tree, out, *words)
    assert "nothing to do" in capsys.readouterr().out
    shutil.rmtree(tree)
    built(tree, out, *words)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("before", ["finish", "index", "pack"])
def test_sizes_are_those_of_the_images(before: str, tmp_path: Path) -> None:
    """Images that were replaced in their places, before a whole build or between its stages: what recipes start from is
    as of a fresh build.
    """
    tree, out = folder(tmp_path / "raw", 1, side=20), tmp_path / "data"
    stages = ("index", "split", "pack", "finish")
    for stage in stages[: stages.index(before) + 1]:
        run(["data=birds", f"source={tree}", f"out={out}", "workers=1", *WORDS, f"stage={stage}"])
    folder(tree, 2, side=120)
    for stage in stages[stages.index(before) + 1 :] or ("",):
        words = [f"stage={stage}"] if stage else []
        run(["data=birds", f"source={tree}", f"out={out}", "workers=1", *WORDS, *words])
    built(tree, tmp_path / "fresh")
    assert forms.meta(out, "birds") == forms.meta(tmp_path / "fresh", "birds")
    assert forms.meta(out, "birds")["kind"] == "large"


def test_images_that_are_gone_are_not_needed_to_finish(tmp_path: Path) -> None:
    """A list is there and the folder of its images is not any more: what is packed is finished."""
    tree, out, rows = folder(tmp_path / "raw", 1), tmp_path / "data", tmp_path / "list.txt"
    rows.write_text("".join(f"{name} {int(name[:3] == 'bee')}\n" for name in pictures(1)))
    words = ["data=birds", f"source={rows}", f"images={tree}", f"out={out}", "workers=1", *WORDS]
    for stage in ("index", "split", "pack"):
        run([*words, f"stage={stage}"])
    for path in tree.rglob("*.jpg"):
        path.unlink()
    run([*words, "stage=finish"])
    assert forms.meta(out, "birds")["splits"]["glt/test_cbl"]["samples"] == 4


def test_a_list_of_images_that_are_gone_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once its data set is finished, though one of them was no image; nor where their folder is gone, too."""
    tree, out, rows = folder(tmp_path / "raw", 1), tmp_path / "data", tmp_path / "list.txt"
    rows.write_text("".join(f"{name} {int(name[:3] == 'bee')}\n" for name in pictures(1)))
    (tree / "ant" / "0.jpg").write_bytes(b"<html>")
    whole = built(rows, out, *WORDS, f"images={tree}")
    capsys.readouterr()
    for gone in (tree / "ant", tree):
        shutil.rmtree(gone)
        assert built(rows, out, *WORDS, f"images={tree}") == whole
        assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(DataError, match=f"its paths start from {tree}"):
        built(rows, out, *WORDS, f"images={tree}", "format=lists")


def test_a_relative_images_is_that_of_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """images=raw is the folder of that name where the command runs, as a relative source= is."""
    found, out, rows = [], tmp_path / "data", tmp_path / "list.txt"
    rows.write_text("".join(f"{name} {int(name[:3] == 'bee')}\n" for name in pictures(1)))
    for seed in (1, 2):
        folder(tmp_path / str(seed) / "raw", seed)
        monkeypatch.chdir(tmp_path / str(seed))
        found.append(built(rows, out, *WORDS, "images=raw"))
    assert found[1] == built(rows, tmp_path / "fresh", *WORDS, "images=raw") != found[0]


def test_a_file_that_was_no_image_is_repaired(tmp_path: Path) -> None:
    """In its place: it is taken in."""
    tree, out = folder(tmp_path / "raw", 1), tmp_path / "data"
    (tree / "ant" / "0.jpg").write_bytes(b"<html>")
    left = sum(map(len, built(tree, out).values()))
    (tree / "ant" / "0.jpg").write_bytes(sources.jpeg(7))
    assert sum(map(len, built(tree, out).values())) == left + 1


def test_rows_of_other_names_are_refused(tmp_path: Path) -> None:
    """features=FILE.npy with as many rows as there are images, in the order of names that the source had before; a new
    names.txt makes it legal.
    """
    tree, out, mine = folder(tmp_path / "raw", 1), tmp_path / "data", tmp_path / "mine.npy"
    rows = np.random.default_rng(0).normal(size=(2 * EACH, 3))
    words = ("attributes=clusters", "clusters=2", "val=2", "test_cbl=2")
    run(["data=birds", f"source={tree}", f"out={out}", "workers=1", *words, "stage=index"])
    names = out / "birds" / ".work" / "index" / "names.txt"
    before = names.read_bytes()
    np.save(mine, rows)
    (tree / "ant" / "0.jpg").rename(tree / "ant" / "other.jpg")
    for stage in ([], ["stage=index"]):
        with pytest.raises(
            DataError, match=r"mine\.npy: the source has other images than .*names\.txt, in whose order"
        ):
            built(tree, out, *words, f"features={mine}", *stage)
    assert names.read_bytes() == before
    run(["data=birds", f"source={tree}", f"out={out}", "workers=1", *words, "stage=index"])
    assert names.read_bytes() != before and built(tree, out, *words, f"features={mine}")


def test_a_licence_goes_with_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stays while the bytes do; of others it is not said, and the build tells."""
    tree, out = folder(tmp_path / "raw", 1), tmp_path / "data"

    def stated() -> str | None:
        return json.loads((out / "birds" / "croissant.json").read_bytes()).get("license")

    built(tree, out, *WORDS, "license=CC-BY-4.0")
    built(forms.moved(tree, tmp_path / "moved"), out)
    assert stated() == "CC-BY-4.0" and "license=" not in capsys.readouterr().out
    built(folder(tree, 2), out)
    assert stated() is None
    assert "croissant.json said license=CC-BY-4.0 of a data set with other bytes" in capsys.readouterr().out
    built(tree, out, *WORDS, "license=CC0-1.0")
    built(folder(tree, 3), out, *WORDS, "license=CC0-1.0")
    assert stated() == "CC0-1.0" and "with other bytes" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- what is left
def test_no_copy_of_the_old_one_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tar that a replaced archive was unpacked to goes, and so does what killed builds were writing."""
    monkeypatch.chdir(tmp_path)
    source, out = tarred(Path("raw.tar.gz"), 1, "w:gz"), Path("../") / tmp_path.name / "data"
    built(source, out)
    work = out / "birds" / ".work"
    (old,) = (work / "unpacked").glob("*.tar")
    (work / "features").mkdir()
    left = [work / "unpacked" / ".raw.tar.node-7-12.tmp", work / "features" / ".features.npy.node-7-12.tmp"]
    for path in left:
        path.write_bytes(b"half")
    built(tarred(source, 2, "w:gz"), out)
    (new,) = (work / "unpacked").glob("*.tar")
    assert new != old and not any(path.exists() for path in left)
    folder(tmp_path / "raw", 2)
    built(tmp_path / "raw", out)
    assert not list((work / "unpacked").glob("*.tar"))
