"""What does not fit a run's network is told by the launcher, before anything is submitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ifl.pretrained.start_check import fault
from recipes.backbones import facts
from recipes.common.errors import RecipeError, RunError
from recipes.resolve import resolve
from slurm import launch
from slurm.planning.start_check import _asked, _sections, start_fault
from slurm.site_file import Site
from tests.helpers.libraries import VIT, asked_here

EMPTY, OTHER, SHALLOW, TEXT = "empty.safetensors", "other.safetensors", "shallow.safetensors", "text.npz"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty file, one of other tensors, one of a ViT of one block, and vectors of three classes."""
    from ifl.backbones.library import create

    asked_here(monkeypatch, tmp_path / "networks")
    facts._answer.cache_clear()
    _asked.cache_clear()
    (tmp_path / EMPTY).touch()
    save_file({"a": torch.zeros(1)}, tmp_path / OTHER)
    args = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
    save_file(create("timm:vit_tiny_patch16_224", args, 32).state_dict(), tmp_path / SHALLOW)
    np.savez(tmp_path / TEXT, vectors=np.eye(3, 5, dtype=np.float32), class_names=np.array(["a", "b", "c"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


MISFITS = [
    ([*VIT, f"model.weights={EMPTY}"], f"{EMPTY} cannot be read"),
    ([*VIT, f"model.weights={SHALLOW}"], f"{SHALLOW} does not fit model.name=timm:vit_tiny_patch16_224: 12 missing"),
    ([*VIT, f"model.weights={SHALLOW}", "model.prefix=b."], "begins with model.prefix=b.; it begins with blocks"),
    ([f"model.weights={OTHER}"], "does not fit model.name=small_resnet"),
    ([f"method.text={SHALLOW}"], "cannot be read: it lacks `vectors`"),
    ([f"method.text={TEXT}"], "vectors [K, D] = [3, 5], and the classifier of the method ce has weight [3, 64]"),
    (["model.train=adapter"], "the network of ifl/models/small_resnet.py has no blocks that call a module `mlp`"),
    (["model.drop_path=.1"], "build() takes no argument drop_path"),
    (["batch.bn=0"], "batch.bn=0 is for a network without batch normalisation, and small_resnet has it"),
]


@pytest.mark.parametrize("words, said", MISFITS, ids=[words[-1] for words, _ in MISFITS])
def test_a_misfit_is_told_before_anything_is_submitted(words: list[str], said: str, files: Path) -> None:
    """One sentence, by the command that would show or start the run; no folder is made."""
    with pytest.raises(RecipeError, match=r"^[^\n]+$") as caught:
        launch.parse(["data=digits_glt", f"runs={files}/runs", "cluster=dry", *words], Site())
    assert said in str(caught.value) and not (files / "runs").exists()


def test_what_lacks_here_may_be_there_where_the_run_starts(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose imports only a container or a module brings is no misfit: the process that is asked ends without
    an answer, and the run's own start says it."""
    (files / "ifl" / "models").mkdir(parents=True)
    monkeypatch.setenv("GLT_PATH", str(files))
    for name, text in (("lacking", "import only_in_the_container\n"), ("broken", "1 / 0\n")):
        (files / "ifl" / "models" / f"{name}.py").write_text(text)
    lacking, broken = (
        resolve(["data=digits_glt", f"runs={files}/runs", f"model.name={name}", "model.train=norm"])
        for name in ("lacking", "broken")
    )
    assert "it cannot be imported: ZeroDivisionError" in start_fault(broken)
    with pytest.raises(RunError, match="only_in_the_container"):
        fault(lacking)
    monkeypatch.undo()
    monkeypatch.setenv("GLT_PATH", str(files))
    monkeypatch.setenv("XDG_CACHE_HOME", str(files / "cache"))
    assert start_fault(lacking) == ""


def test_what_fits_is_asked_once_and_a_begun_run_is_not_asked(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is kept; a run that has begun goes on whatever lies at its file's place; where nobody can say, as
    without torch, the run's own start says it."""
    args = [word.replace("depth=2", "depth=1") for word in VIT]
    words = ["data=digits_glt", f"runs={files}/runs", *args, f"model.weights={SHALLOW}"]
    recipe = resolve(words)
    assert start_fault(recipe) == "" and start_fault(resolve(["data=digits_glt"])) == ""

    def nobody(module: str, asked: str) -> None:
        raise facts.Unanswered("no torch")

    monkeypatch.setattr(facts, "_ask", nobody)
    _asked.cache_clear()
    assert start_fault(recipe) == ""  # from the cache
    deeper = resolve(["data=digits_glt", f"runs={files}/runs", "model.train=adapter"])
    seeds = [resolve(["recipe=glt_crt", *words[:2], "method.init_from=a-run-of-seed-" + seed]) for seed in "01"]
    assert _sections(seeds[0]) == _sections(seeds[1]) != _sections(resolve(words[:2]))  # asked once for all
    assert start_fault(deeper) == ""
    asked_here(monkeypatch, files / "others")
    _asked.cache_clear()
    assert "no blocks" in start_fault(deeper)
    deeper.run_folder.mkdir(parents=True)
    (deeper.run_folder / "meta.json").write_text("{}")
    assert start_fault(deeper) == ""
