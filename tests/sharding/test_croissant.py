"""croissant.json says of a data set what dataset.json and the shards do, and the vocabulary's own program takes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.common.errors import DataError
from recipes.common.files import file_digest
from sharding.build import run
from sharding.building.request import builders, declared
from sharding.format.croissant import NO_LICENCE, state_licence
from sharding.format.index import load_index
from tests.helpers import toy

ANSWERS = """\
import json, logging, sys
import mlcroissant
logging.disable()
data = mlcroissant.Dataset(jsonld=sys.argv[1])
found = {}
for name in json.loads(sys.argv[2]):
    found[name] = [
        {key.partition("#")[2]: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        for row in data.records(record_set=name)
    ]
issues = data.metadata.ctx.issues
print(json.dumps({"records": found, "warnings": sorted(issues.warnings), "errors": sorted(issues.errors)}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build(tmp_path_factory.mktemp("data"))


def said(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    return content


def test_every_shard_is_named_with_its_digest(folder: Path) -> None:
    """Those on the disk, no others, with their sizes; and the members of each sample are inside of them."""
    files = {part["contentUrl"]: part for part in said(folder)["distribution"] if part["@type"] == "cr:FileObject"}
    shards = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.tar")}
    assert files.keys() == shards.keys() and len(shards) == 10
    for name, path in shards.items():
        assert (files[name]["sha256"], files[name]["contentSize"]) == (file_digest(path), f"{path.stat().st_size} B")
    sets = {part["@id"]: part for part in said(folder)["distribution"] if part["@type"] == "cr:FileSet"}
    assert {entry["@id"] for entry in sets["glt/train/cls"]["containedIn"]} == {
        name for name in shards if name.startswith("glt/train/")
    }


def test_fields_splits_and_classes_are_described(folder: Path) -> None:
    """Each edition's splits with their folders and samples; classes with names and groups; all entries of a sample."""
    meta = json.loads((folder / "dataset.json").read_text())
    records = {part["@id"]: part for part in said(folder)["recordSet"]}
    rows = [{key.partition("#")[2]: value for key, value in row.items()} for row in records["splits"]["data"]]
    assert {(row["edition"], row["split"]): (row["folder"], row["samples"]) for row in rows} == {
        (edition, split): (relative, meta["splits"][relative]["samples"])
        for edition, splits in meta["editions"].items()
        for split, relative in splits.items()
    }
    assert [row["classes#name"] for row in records["classes"]["data"]] == meta["class_names"]
    fields = [field["name"] for field in records["shared/test_gbl/annotations"]["field"]]
    assert fields == ["key", "id", "source", "label", "group", "attribute"]


def test_the_same_data_set_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Wherever it lies."""
    assert (toy.build(tmp_path) / "croissant.json").read_bytes() == (folder / "croissant.json").read_bytes()


def test_a_licence_that_nobody_stated_is_left_out_and_told(tmp_path: Path) -> None:
    """And one that was stated stays when the data set is built again; dataset.json does not change."""
    folder = toy.build(tmp_path)
    before = (folder / "dataset.json").read_bytes()
    assert "license" not in said(folder) and NO_LICENCE in said(folder)["description"]
    state_licence(folder, "CC-BY-4.0")
    assert said(folder)["license"] == "CC-BY-4.0" and NO_LICENCE not in said(folder)["description"]
    toy.build(tmp_path)
    assert said(folder)["license"] == "CC-BY-4.0" and (folder / "dataset.json").read_bytes() == before


def test_every_builder_takes_a_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By license=, for a data set that is there already, too; a text of several lines is refused."""
    assert all("license" in declared(name)[0] for name in builders())
    stand_in = SimpleNamespace(build=lambda request: (request.out / "digits_glt").exists() or toy.build(request.out))
    monkeypatch.setattr("sharding.build.importlib.import_module", lambda _: stand_in)
    folder = toy.build(tmp_path, "digits_glt")
    run(["data=digits_glt", f"out={tmp_path}", "license=https://example.org/terms"])
    assert said(folder)["license"] == "https://example.org/terms"
    with pytest.raises(DataError, match="a name or an address of up to 500 characters is"):
        run(["data=digits_glt", f"out={tmp_path}", "license=a\nb"])


@pytest.mark.full
def test_mlcroissant_takes_it_and_reads_labels_by_it(folder: Path, tmp_path: Path) -> None:
    """In an environment of its own, with what the package index has today: no error, warnings of what nobody stated
    alone, and the labels of a split as the index has them.
    """
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "mlcroissant"], check=True, timeout=600)
    names = json.dumps(["classes", "splits", "glt/train/labels"])
    words = [python, "-c", ANSWERS, folder / "croissant.json", names]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["errors"] == []
    assert {warning.split('"')[1].rpartition("/")[2] for warning in answers["warnings"]} <= {
        *("citeAs", "datePublished", "license", "version"),
    }
    index = load_index(folder / "glt" / "train")
    expected = dict(zip(index.key.tolist(), index.label.tolist(), strict=True))
    assert {row["key"]: row["label"] for row in answers["records"]["glt/train/labels"]} == expected
    assert len(answers["records"]["classes"]) == 4 and len(answers["records"]["splits"]) == 8
