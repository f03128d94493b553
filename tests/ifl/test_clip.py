"""Class vectors made from text: zero-shot classification, the start of a classifier, and the files they come from.

Both towers are open_clip's own, tiny and with random weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from ifl import setup
from ifl.backbones.open_clip import open_clip_backbone
from ifl.clip import __main__ as command
from ifl.clip.class_vectors import ClassVectors, read_vectors, write_vectors
from ifl.clip.head_start import start_head
from ifl.method import BaseMethod, Task, load_method
from ifl.network.backbone import build_backbone
from ifl.optimisation.depth import depths_of
from recipes.common.errors import DataError, RecipeError, RunError
from recipes.common.files import file_digest
from recipes.declarations import declaration
from recipes.resolve import dump, load_resolved, resolve
from sharding.images import open_clip_models
from sharding.open import open_dataset
from tests.helpers import mini, tiny_clip
from tests.helpers.libraries import asked_here
from tests.helpers.ranks import started
from tests.helpers.tuned import in_a_rank

NAMES = ["0", "1", "2", "3"]


def vectors_of(dim: int, names: list[str] = NAMES, seed: int = 0) -> ClassVectors:
    drawn = torch.randn(len(names), dim, generator=torch.Generator().manual_seed(seed))
    return ClassVectors(F.normalize(drawn, dim=1), names)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> tuple[Path, nn.Module, Path]:
    """A folder of GLT_PATH with the tiny CLIP, the model, and its vectors of the mini data set's classes."""
    folder = tmp_path_factory.mktemp("clip")
    model, weights = tiny_clip.make(folder)
    (folder / "templates.txt").write_text("a photo of a {}.\nthe digit {}\n")
    out = folder / "text.safetensors"
    words = [f"weights={weights}", "data=digits_glt", f"data.root={mini_root}", f"templates={folder}/templates.txt"]
    assert command.main([tiny_clip.NAME, *words, f"out={out}"]) == 0
    return folder, model, out


def zero_shot(clip: tuple[Path, nn.Module, Path], root: Path, runs: Path, nodes: int) -> Path:
    """Make the zero-shot run on some ranks; its folder."""
    folder, model, text = clip
    words = [f"method.text={text}", "model.name=own_clip", f"nodes={nodes}", "cluster=local"]
    scale = f"method.args.scale={model.logit_scale.exp().item()!r}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GLT_PATH", str(folder))
        recipe = mini.recipe_of(root, runs, "recipe=glt_clip_zeroshot", *words, scale)
    assert started(nodes).run(in_a_rank, str(recipe.run_folder), str(folder)) == [True] * nodes
    return recipe.run_folder


# ------------------------------------------------------------------------------------------------------------ zero-shot
def test_zero_shot_is_open_clips_own(clip: tuple[Path, nn.Module, Path], mini_root: Path, tmp_path: Path) -> None:
    """A zero-shot run on two ranks predicts, for every image of every split, what open_clip's own encode_image and
    encode_text give, with the softmax's maximum to 1e-4 relatively; its folder is whole, and says what the text was."""
    model = clip[1]
    run = zero_shot(clip, mini_root, tmp_path, nodes=2)
    recipe, data = load_resolved(run / "recipe.yaml"), open_dataset(mini_root, "digits_glt")
    tokens = open_clip_models.library().get_tokenizer(tiny_clip.NAME)
    with torch.no_grad():
        prompts = [[f"a photo of a {name}.", f"the digit {name}"] for name in data.class_names]
        texts_KTD = torch.stack([F.normalize(model.encode_text(tokens(each)), dim=1) for each in prompts])
        texts_KD = F.normalize(texts_KTD.mean(dim=1), dim=1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.data.mean, recipe.data.std))
    for name in ("val", "test_cbl", "test_gbl", "test_glt"):
        split = data.split("glt", name)
        pixels = torch.stack([torch.tensor(pixels_of(split.read(i))) for i in range(len(split))])
        with torch.no_grad():
            images_ND = F.normalize(model.encode_image((pixels.permute(0, 3, 1, 2) / 255 - mean) / std), dim=1)
        own_NK = model.logit_scale.exp().detach() * images_ND @ texts_KD.T
        for select in ("last", "best"):
            with np.load(run / "preds" / select / f"{name}.npz") as found:
                assert np.array_equal(found["prediction"], own_NK.argmax(1).numpy())
                np.testing.assert_allclose(found["confidence"], own_NK.softmax(1).amax(1).numpy(), rtol=1e-4)
    done, meta = (json.loads((run / name).read_text()) for name in ("done", "meta.json"))
    assert done["epochs"] == 0 and done["weights"]["last"] == done["weights"]["best"]
    assert meta["text"]["sha256"] == recipe.method.text_sha256 and meta["text"]["model"] == "open_clip:tiny-clip"
    assert (
        meta["text"]["templates"] == ["a photo of a {}.", "the digit {}"] and len(meta["text"]["weights_sha256"]) == 64
    )
    assert not mini.lines(run, "train") and len(mini.lines(run, "eval")) == 4


def test_zero_shot_reads_the_weights_that_it_was_resolved_with(tmp_path: Path) -> None:
    """A file that was exchanged since is refused before it is read; a judgement of another run reads none."""
    weights, text = tmp_path / "weights", tmp_path / "text"
    for file in (weights, text):
        file.write_text("as resolved")
    words = ["data=digits_glt", f"model.weights={weights}"]
    recipe = resolve(["recipe=glt_clip_zeroshot", *words, f"method.text={text}"])
    judged = resolve(["recipe=glt_logit_adjust", *words])
    weights.write_text("another")
    ranks = SimpleNamespace(comm=SimpleNamespace(rank=0, size=1), device=torch.device("cpu"))
    with pytest.raises(RunError, match=r"has the sha256 .*put that file back"):
        setup.build_model(recipe, tmp_path, ranks, None, True, setup.USUAL_PARTS, trains=False)
    with pytest.raises(AttributeError, match="counts"):  # it gets on, to the data that there are none of here
        setup.build_model(judged, tmp_path, ranks, None, True, setup.USUAL_PARTS, trains=False)


def pixels_of(data: bytes) -> np.ndarray:
    """Decode a 32 x 32 image; uint8 [32, 32, 3]."""
    from sharding.images.decoders import picture_of
    from sharding.images.encoding import opened
    from sharding.images.transforms import eval_pixels

    return eval_pixels(picture_of(opened(data)), size=32, resize=32)


@pytest.mark.full
def test_zero_shot_is_the_same_on_one_rank_and_two(
    clip: tuple[Path, nn.Module, Path], mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; and evaluated again, as a finished run, without the file of text, no prediction differs."""
    from ifl.finished_run import export

    one, two = (zero_shot(clip, mini_root, tmp_path / str(n), nodes=n) for n in (1, 2))
    for path in sorted(one.glob("preds/*/*.npz")):
        with np.load(path) as mine, np.load(two / path.relative_to(one)) as theirs:
            assert all(mine[key].tobytes() == theirs[key].tobytes() for key in mine.files), path
    assert len(list(one.glob("preds/*/*.npz"))) == 8
    moved = tmp_path / "moved"
    shutil.copytree(clip[0], moved)
    (moved / "text.safetensors").unlink()
    (one / "recipe.yaml").write_text((one / "recipe.yaml").read_text().replace(str(clip[2]), str(moved / "gone")))
    monkeypatch.setenv("GLT_PATH", str(moved))
    assert set(started(1).run(again, str(one), str(moved))[0].values()) == {0}
    export(one, "best", tmp_path / "own.safetensors")
    with safe_open(tmp_path / "own.safetensors", framework="pt") as file:
        vectors_KD = read_vectors(clip[2], open_dataset(mini_root, "digits_glt").class_names).vectors_KD
        assert torch.equal(file.get_tensor("head.vectors_KD"), vectors_KD)


def again(run: str, glt_path: str) -> dict[str, int]:
    """In a rank: evaluate a finished run again."""
    import os

    from ifl.finished_run import evaluate

    os.environ["GLT_PATH"] = glt_path
    return evaluate(Path(run), "last")


# ----------------------------------------------------------------------------------------------------- the head's start
def task(dim: int) -> Task:
    return Task(np.array([14, 9, 6, 3]), dim, 10)


def made(name: str, dim: int) -> BaseMethod:
    declared = declaration(name)
    return load_method(name, Task(task(dim).class_counts, dim, 10, declared.args("paper")))


@pytest.mark.parametrize("name, experts", [("ce", 1), ("balanced_softmax", 1), ("ldam", 1), ("ride", 3), ("tade", 3)])
def test_a_head_starts_as_zero_shot(name: str, experts: int) -> None:
    """Before the first step the logits of a linear and of a cosine classifier are, row by row, a positive number times
    the zero-shot ones: |x| / scale for the linear one, its own scale / scale for the cosine ones, whose experts all
    start so."""
    text, torch_seed = vectors_of(8), torch.Generator().manual_seed(1)
    method, zero = made(name, 8 * experts), made("clip_zeroshot", 8)
    head, judge = method.head(), zero.head()
    for started_head, whose in ((head, name), (judge, "clip_zeroshot")):
        start_head(started_head, text, Path("f"), whose)
    x_BD = torch.randn(16, 8, generator=torch_seed)
    given = head(x_BD.repeat(1, experts))
    logits_BK, zero_BK = given[0] if isinstance(given, tuple) else given, judge(x_BD)
    own_scale = x_BD.norm(dim=1, keepdim=True) if isinstance(head, nn.Linear) else torch.tensor(head.scale)
    torch.testing.assert_close(logits_BK, zero_BK * own_scale / 100, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits_BK.argmax(1), zero_BK.argmax(1))


def test_a_bias_starts_from_zero_and_other_heads_are_refused() -> None:
    """A linear layer with a bias starts as one without; a head whose vectors have another length, or which has two
    sets, is refused by name."""
    head = nn.Linear(8, 4)
    start_head(head, vectors_of(8), Path("f"), "mine")
    assert torch.equal(head.bias, torch.zeros(4)) and torch.equal(head.weight, vectors_of(8).vectors_KD)
    for wrong in (nn.Linear(9, 4), nn.Sequential(nn.Linear(8, 4), nn.Linear(8, 4)), nn.Identity()):
        with pytest.raises(
            RunError, match=r"^method\.text=f has vectors \[K, D\] = \[4, 8\], and the classifier of the"
        ):
            start_head(wrong, vectors_of(8), Path("f"), "mine")


def test_a_run_starts_from_its_text_once(mini_root: Path, tmp_path: Path) -> None:
    """A run whose classifier starts from text and that is stopped and resumed ends with the bits of one that was not:
    the text is not put in again, and the file may be gone. It differs from the run without text, under a name of its
    own."""
    write_vectors(
        text := tmp_path / "text.safetensors", vectors_of(64, open_dataset(mini_root, "digits_glt").class_names)
    )
    words, ranks = ["schedule.epochs=2", f"method.text={text}"], started(1)
    whole, halved = (mini.recipe_of(mini_root, tmp_path / name, *words) for name in ("whole", "halved"))
    plain = mini.recipe_of(mini_root, tmp_path / "plain", words[0])
    for recipe in (whole, plain):
        assert ranks.run(mini.trained, str(recipe.run_folder)) == [True]
    assert ranks.run(mini.trained, str(halved.run_folder), 3) == [False]
    text.unlink()
    assert resolve([f"recipe={halved.run_folder}/recipe.yaml"]) == halved
    assert ranks.run(mini.trained, str(halved.run_folder)) == [True]
    with pytest.raises(RecipeError, match=r"method\.text=\S+ cannot be read: No such file .* python -m ifl\.clip"):
        resolve([f"recipe={halved.run_folder}/recipe.yaml", f"runs={tmp_path}/anew"])
    ends = [mini.final(recipe.run_folder) for recipe in (whole, halved, plain)]
    assert mini.same_bits(ends[0], ends[1]) == []
    assert "network.head.weight" in [key.removeprefix(".") for key in mini.same_bits(ends[0], ends[2])]
    assert whole.hash8 == halved.hash8 != plain.hash8


# ------------------------------------------------------------------------------------------------------------- the file
def saved(path: Path, vectors: Any, names: Any = NAMES) -> Path:
    np.savez(path, vectors=vectors, class_names=np.array(names))
    return path


def test_templates_are_averaged_as_unit_vectors(tmp_path: Path) -> None:
    """[K, T, D] becomes the mean of unit vectors, of length 1; an .npz is read as a safetensors is."""
    vectors_KTD = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    found = read_vectors(saved(tmp_path / "a.npz", vectors_KTD), NAMES).vectors_KD
    mean = (vectors_KTD / np.linalg.norm(vectors_KTD, axis=2, keepdims=True)).mean(1)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-5)
    write_vectors(tmp_path / "b.safetensors", ClassVectors(found, NAMES, ["a {}"], {"model": "m"}))
    again = read_vectors(tmp_path / "b.safetensors", NAMES)
    torch.testing.assert_close(again.vectors_KD, found)
    assert (again.templates, again.made_by) == (["a {}"], {"model": "m"})


GOOD = np.eye(4, 5, dtype=np.float32)
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "order": (
        lambda p: saved(p, GOOD, ["0", "2", "1", "3"]),
        "class 1 is '2' there and '1' here (the same names in an",
    ),
    "number": (
        lambda p: saved(p, GOOD[:3], NAMES[:3]),
        "other classes than the data set: it has 3, and the data set 4",
    ),
    "name": (lambda p: saved(p, GOOD, ["0", "1", "2", "cat"]), "class 3 is 'cat' there and '3' here"),
    "shape": (lambda p: saved(p, GOOD[0]), "[5]"),
    "rows": (lambda p: saved(p, GOOD[:3]), "3 vectors and 4 class_names"),
    "kind": (lambda p: saved(p, GOOD.astype(np.int64)), "torch.int64"),
    "zero": (lambda p: saved(p, 0 * GOOD), "zero or not finite"),
    "nan": (lambda p: saved(p, GOOD * np.nan), "zero or not finite"),
    "bytes": (lambda p: (p.write_bytes(b"x" * 99), p)[1], "cannot be read"),
    "none": (lambda p: p, "cannot be read: No such file"),
    "lacking": (lambda p: (np.savez(p, other=GOOD), p)[1], "it lacks the array `vectors` or `class_names`"),
}


@pytest.mark.parametrize(
    "what, suffix", [*((what, ".npz") for what in WRONG), ("bytes", ".safetensors"), ("none", ".safetensors")]
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, what: str, suffix: str) -> None:
    make, said = WRONG[what]
    path = tmp_path / f"text{suffix}"
    with pytest.raises(RunError) as refused:
        read_vectors(make(path), NAMES)
    assert str(refused.value).startswith(f"method.text={path} ") and said in str(refused.value)
    assert "\n" not in str(refused.value) and "legal" in str(refused.value)


def test_a_run_is_named_by_the_content_of_its_text(tmp_path: Path) -> None:
    """The same file elsewhere is the same run, and another one is another; recipe.yaml holds the digest, so the run of
    a file that was changed is not gone on with."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        drawn = vectors_of(8, seed=seed)
        write_vectors(tmp_path / name, ClassVectors(drawn.vectors_KD, NAMES, ["a {}"], {"model": "m", "other": "o"}))
    plain, a, b, c = (
        resolve(["data=digits_glt", *([f"method.text={tmp_path / name}"] if name else [])]) for name in ("", *"abc")
    )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert a.hash8 == b.hash8 and len({plain.hash8, a.hash8, c.hash8}) == 3
    (tmp_path / "recipe.yaml").write_text(dump(a))
    assert resolve([f"recipe={tmp_path}/recipe.yaml"]) == a
    assert resolve([f"recipe={tmp_path}/recipe.yaml", f"method.text={tmp_path}/b"]).hash8 == a.hash8
    shutil.copy(tmp_path / "c", tmp_path / "a")
    with pytest.raises(RecipeError, match=r"method\.text=\S+ is not the file that the recipe was written with"):
        resolve([f"recipe={tmp_path}/recipe.yaml"])
    with pytest.raises(RunError, match="is not the file that the run began with"):
        read_vectors(tmp_path / "a", NAMES, a.method.text_sha256)


# ---------------------------------------------------------------------------------------------------------- the command
@pytest.mark.parametrize(
    "words, said",
    [
        ([], ""),
        (["ViT-B-32", "data=digits_glt", "out=x.safetensors"], "weights= is needed"),
        (["weights=w", "data=digits_glt", "out=x.safetensors"], "one model's NAME is needed"),
        (["ViT-B-32", "weights=w", "data=digits_glt", "out=x.npz"], "out=x.npz is not legal"),
        (["ViT-B-31", "weights=w", "data=digits_glt", "out=x.safetensors"], "near are open_clip:ViT-B-32,"),
        (
            ["ViT-B-32", "weights=w", "data=digits_glt", "out=x.safetensors"],
            "the weights w of open_clip:ViT-B-32 are no",
        ),
        (["ViT-B-32", "weights=w", "data=digits_glt", "out=x.safetensors", "templates=t"], "the template 'a photo' "),
        (["ViT-B-32", "weights=w", "data=digits_glt", "out=x.safetensors", "names=t"], "has 1 lines, and digits_glt 4"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    words: list[str],
    said: str,
    mini_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text("a photo\n")
    code = command.main([*words, *([f"data.root={mini_root}"] if words else [])])
    told = capsys.readouterr().err
    assert said in told and (code, told.count("\n")) == ((2, 1) if words else (0, 0))


def test_weights_of_another_model_are_refused(clip: tuple[Path, nn.Module, Path], tmp_path: Path) -> None:
    torch.save(
        {name: value for name, value in clip[1].state_dict().items() if name != "ln_final.weight"}, tmp_path / "w"
    )
    with pytest.raises(DataError, match=r"/w does not hold the weights of open_clip:tiny-clip: .*Missing[^\n]+weight"):
        open_clip_backbone(tiny_clip.NAME, {}, weights=tmp_path / "w")
    with pytest.raises(
        DataError, match=r"^the argument size of open_clip:tiny-clip is not legal; legal: force_quick_gelu, "
    ):
        open_clip_backbone(tiny_clip.NAME, {"size": 3})


def test_a_tower_by_name_is_open_clip_s(
    clip: tuple[Path, nn.Module, Path], mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model.name=open_clip:NAME` is planned without its weights, refuses what it cannot take, and gives the features
    of open_clip's own `encode_image`; the projection moves as the last layer, and the file's prefix cannot be cut."""
    folder, model, _ = clip
    weights = folder / f"{tiny_clip.NAME}.safetensors"
    asked_here(monkeypatch, tmp_path / "cache")
    named = [f"model.name=open_clip:{tiny_clip.NAME}", f"model.weights={weights}", "batch.bn=0"]
    recipe = mini.recipe_of(mini_root, tmp_path, *named)
    assert recipe.model.weights_sha256 == file_digest(weights)
    for words, said in (
        (["data.image_size=12", "data.test_resize=12"], "cuts images into patches of 8x8 pixels"),
        (["model.prefix=module."], r"model\.prefix=module\. is not for open_clip"),
        (["model.drop_path=.1"], "takes no such rate"),
    ):
        with pytest.raises(RecipeError, match=said):
            mini.recipe_of(mini_root, tmp_path, *named, *words)
    tower = build_backbone(recipe.model, "plain", tiny_clip.SIDE).eval()
    images = torch.rand(3, 3, tiny_clip.SIDE, tiny_clip.SIDE)
    with torch.no_grad():
        assert torch.equal(tower(images), model.encode_image(images))
    depths, head = depths_of(tower)
    assert depths["visual.conv1.weight"] == depths["visual.class_embedding"] == 0
    assert depths["visual.proj"] == depths["visual.ln_post.weight"] == head - 1


def test_where_open_clip_lacks_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip_models, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"python -m pip install open_clip_torch"):
        open_clip_backbone("ViT-B-32", {})
