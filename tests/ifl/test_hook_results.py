"""All that a user's method and model give is looked at, and what is wrong is told in one sentence with their file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ifl.methods
import ifl.models
from ifl.method import BaseMethod, Output, Rows, load_file
from ifl.network.backbone import build_backbone
from ifl.network.network import Network, build_network
from recipes.common.errors import RunError
from recipes.resolve import resolve
from recipes.schema import Model
from tests.helpers.paths import PROJECT

METHOD = """
import torch
import torch.nn.functional as F
from torch import nn
from ifl.method import BaseMethod

class Method(BaseMethod):
    def losses(self, output, rows):
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
"""
REMEMBERS = "    def remember(self, ids_G, labels_G, notes_GC):\n        pass\n"
MODEL = """
from torch import nn

def build():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8))
    network.feature_dim = 8
    return network
"""
B, K = 4, 3
ROWS = Rows(
    torch.tensor([0, 1, 2, 0]), torch.arange(B), torch.zeros(B, dtype=torch.int64), 0, torch.tensor([0, 1, 2, 0])
)
Made = Callable[..., tuple[Network, BaseMethod]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose my_method.py and my_model.py are found as if they lay in ifl/methods and ifl/models."""
    for package in (ifl.methods, ifl.models):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    for name in ("methods.my_method", "models.my_model"):
        monkeypatch.delitem(sys.modules, f"ifl.{name}", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("methods.my_method", "models.my_model"):
        sys.modules.pop(f"ifl.{name}", None)


@pytest.fixture
def made(folder: Path) -> Made:
    """Writes both files, and builds their network and method."""

    def build(method: str = METHOD, model: str = MODEL) -> tuple[Network, BaseMethod]:
        (folder / "my_method.py").write_text(method)
        (folder / "my_model.py").write_text(model)
        recipe = resolve(["data=digits_glt"])
        recipe.method.name, recipe.model.name = "my_method", "my_model"
        return build_network(recipe, np.array([5, 3, 2]))

    return build


def step(network: Network, method: BaseMethod, epoch: int = 0) -> None:
    """What a step asks of a network and a method."""
    features, logits, *parts = network(torch.zeros(B, 3, 16, 16, dtype=torch.uint8))
    output, rows = Output(features, logits, tuple(parts)), ROWS._replace(epoch=epoch)
    method.losses(output, rows)
    method.predict(output)
    method.notes(output, rows)


def test_legal_files_pass_at_every_step(made: Made) -> None:
    """A legal method and model pass; where there are no gradients, in an evaluation, losses need none."""
    notes = "    def notes(self, output, rows):\n        return output.logits_BK[:, :2]\n"
    made_of = made(METHOD + notes + REMEMBERS)
    for epoch in (0, 0, 1):
        step(*made_of, epoch)
    with torch.no_grad():
        step(*made_of)


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        (
            '        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")',
            '        reduction = "none" if rows.epoch < 2 else "mean"\n'
            "        return F.cross_entropy(output.logits_BK, rows.labels, reduction=reduction)",
            "losses() gave float32 [], one number: float [B] = [4] is legal, one loss a row",
        ),
        (
            "    def losses",
            "    def predict(self, output):\n        self.calls = getattr(self, 'calls', 0) + 1\n"
            "        return output.logits_BK if self.calls < 3 else output.logits_BK[:, 0]\n\n    def losses",
            "predict() gave float32 [4]: float [B, K] = [4, 3]",
        ),
        (
            "    def losses",
            "    def head(self):\n        class Head(nn.Linear):\n            def forward(self, x):\n"
            "                self.calls = getattr(self, 'calls', 0) + 1\n"
            "                return super().forward(x)[:, : 5 - self.calls]\n"
            "        return Head(8, 3)\n\n    def losses",
            "the module of head() gave float32 [4, 2]: logits float [B, K] = [4, 3]",
        ),
    ],
)
def test_a_result_that_becomes_wrong_later_is_told_too(made: Made, old: str, new: str, sentence: str) -> None:
    """From the third step on a hook gives another shape, as where a method changes its loss from an epoch on."""
    assert old in METHOD
    made_of = made(METHOD.replace(old, new))
    for epoch in (0, 1):
        step(*made_of, epoch)
    with pytest.raises(RunError, match=r"^ifl/methods/my_method\.py: [^\n]*$") as caught:
        step(*made_of, 2)
    assert sentence in str(caught.value)


def test_notes_change_with_an_epoch_alone(made: Made) -> None:
    """Notes may begin and end with an epoch; of some rows of a step alone they would leave zeros for the others."""
    notes = "    def notes(self, output, rows):\n"
    notes += "        return output.logits_BK[:, : self.columns] if self.columns else None\n"
    network, method = made(METHOD + notes + REMEMBERS)
    for epoch, method.columns in ((0, 0), (0, 0), (1, 2), (1, 2), (2, 0)):  # type: ignore[attr-defined]
        step(network, method, epoch)
    method.columns = 2  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"^ifl/methods/my_method\.py: notes\(\) gave 2 columns after None in epoch 2: "):
        step(network, method, 2)


LEARNT = """
    def __init__(self, task):
        super().__init__(task)
        self.held = HELD

    def head(self):
        return self.held if isinstance(self.held, nn.Module) else super().head()
"""


@pytest.mark.parametrize(
    "held", ["nn.Parameter(torch.ones(3))", "[nn.Linear(8, 3)]", "{'a': (1, nn.ParameterList([torch.ones(3)]))}"]
)
def test_parameters_beside_the_head_are_told(made: Made, held: str) -> None:
    """What the optimiser and the checkpoints would never see is refused with the file and the attribute."""
    with pytest.raises(RunError, match=r"^ifl/methods/my_method\.py: self\.held holds parameters that nothing trains"):
        made(METHOD + LEARNT.replace("HELD", held))


@pytest.mark.parametrize("held", ["nn.Linear(8, 3)", "[nn.Linear(8, 3).requires_grad_(False)]", "torch.ones(3)"])
def test_a_method_may_hold_its_head_and_constants(made: Made, held: str) -> None:
    """A head that is made before head() is asked for it, modules that nothing is to train, and plain tensors pass."""
    step(*made(METHOD + LEARNT.replace("HELD", held)))


@pytest.mark.parametrize("cut", [".detach()", ".data"])
def test_losses_without_gradients_are_told(made: Made, cut: str) -> None:
    """A detached loss would train nothing: it is refused with the method's file, before the backward pass."""
    made_of = made(METHOD.replace('reduction="none")', f'reduction="none"){cut}'))
    with pytest.raises(
        RunError, match=r"^ifl/methods/my_method\.py: losses\(\) gave losses without gradients, [^\n]*$"
    ):
        step(*made_of)


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        (', reduction="none"', "", "losses() gave float32 [], one number: float [B] = [4] is legal, one loss a row"),
        (
            '        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")',
            "        return (output.logits_BK.argmax(1) != rows.labels).long()",
            "losses() gave int64 [4]: float [B] = [4]",
        ),
        ('rows.labels, reduction="none")', 'rows.labels, reduction="none")[:, None]', "losses() gave float32 [4, 1]: "),
        (
            'return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")',
            "return output.logits_BK",
            "[4, 3]: ",
        ),
        ("return F.cross_entropy", "F.cross_entropy", "losses() gave NoneType: "),
        (
            "    def losses",
            "    def predict(self, output):\n        return output.logits_BK.argmax(1)\n\n    def losses",
            "predict() gave int64 [4]: float [B, K] = [4, 3]",
        ),
        (
            "    def losses",
            "    def notes(self, output, rows):\n        return output.logits_BK.sum(1)\n\n"
            + REMEMBERS
            + "    def losses",
            "notes() gave float32 [4]: None or float [B, C] = [4, C]",
        ),
        (
            "    def losses",
            "    def notes(self, output, rows):\n        return {'a': 1}\n\n" + REMEMBERS + "    def losses",
            "notes() gave dict: None or float [B, C]",
        ),
        (
            "    def losses",
            "    def head(self):\n        return nn.Linear(8, 7)\n\n    def losses",
            "the module of head() gave float32 [4, 7]: logits float [B, K] = [4, 3]",
        ),
    ],
)
def test_a_wrong_result_of_a_method_is_told_with_its_file(made: Made, old: str, new: str, sentence: str) -> None:
    """Shape and dtype of what each hook gives, and what would be legal, with the method's file."""
    assert old in METHOD
    network, method = made(METHOD.replace(old, new))
    with pytest.raises(RunError, match=r"^ifl/methods/my_method\.py: [^\n]*$") as caught:
        step(network, method)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("network.feature_dim = 8", "pass", "with feature_dim None: a torch module is legal that says the length"),
        ("network.feature_dim = 8", "network.feature_dim = 8.0", "with feature_dim 8.0"),
        ("return network", "return 3", "build() gave int"),
        ("def build", "def built", "has no function `build`"),
        ("network.feature_dim = 8", "network.feature_dim = 9", "gave float32 [4, 8]: float [B, D] = [4, 9] is legal"),
        (", nn.Flatten(), nn.Linear(12, 8)", "", "the model gave float32 [4, 3, 2, 2]: float [B, D] = [4, 8]"),
    ],
)
def test_a_wrong_model_is_told_with_its_file(made: Made, old: str, new: str, sentence: str) -> None:
    """A model says the length of its feature, and gives features of that length."""
    assert old in MODEL
    with pytest.raises(RunError, match=r"^ifl/models/my_model\.py[^\n]*$") as caught:
        step(*made(model=MODEL.replace(old, new)))
    assert sentence in str(caught.value)


def test_a_twin_of_a_wrong_model_is_told_too(made: Made) -> None:
    """Two of a model side by side are each looked at."""
    made()
    sys.modules["ifl.models.my_model"].build = lambda: torch.nn.Identity()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"build\(\) gave Identity with feature_dim None"):
        build_backbone(Model(name="my_model"), "twin")


HOLDS = """
    def __init__(self, task):
        super().__init__(task)
        self.memory, self.bank, self.steps, self.kept = HELD, torch.zeros(3), 0, [torch.zeros(1)]

    def notes(self, output, rows):
        return output.logits_BK

    def remember(self, ids_G, labels_G, notes_GC):
        CHANGES
"""


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ("self.bank[labels_G] += 1", "bank"),
        ("self.bank = self.bank + 1", "bank"),
        ("self.steps += 1", "steps"),
        ("self.kept[0].add_(1)", "kept"),
        ("self.fresh = notes_GC", "fresh"),
        ("self.memory['bank'] += 1; self.memory['new'] = self.bank + 1", None),
    ],
)
def test_what_is_remembered_outside_the_memory_is_told(made: Made, changes: str, lost: str | None) -> None:
    """No checkpoint would hold it, and a run that goes on would begin without it."""
    held = HOLDS.replace("HELD", "{'bank': torch.zeros(3)}").replace("CHANGES", changes)
    _, method = made(METHOD + held)
    given = torch.arange(2), torch.tensor([0, 2]), torch.zeros(2, 3, dtype=torch.float64)
    if lost is None:
        method.remember(*given)
        assert sorted(method.memory) == ["bank", "new"]
        return
    with pytest.raises(RunError, match=rf"^ifl/methods/my_method\.py: remember\(\) changed self\.{lost}, which no "):
        method.remember(*given)


@pytest.mark.parametrize(
    "method, sentence",
    [
        ("x = 1\ny = (\n", "ifl/methods/my_method.py, line 2: it cannot be imported: SyntaxError: "),
        (
            "x = 1\nimport not_there\n",
            "line 2: it cannot be imported: ModuleNotFoundError: No module named 'not_there'",
        ),
        ("x = 1\n", "has no `class Method(BaseMethod)`"),
        ("class Method: pass\n", "has no `class Method(BaseMethod)`"),
        (
            METHOD + "    def __init__(self, task):\n        pass\n",
            "the __init__ of Method does not call super().__init__(task)",
        ),
        (METHOD + "    def head(self):\n        return None\n", "head() gave NoneType: a torch module is legal"),
        (METHOD.replace("def losses", "def loss"), "class Method has no losses(output, rows), which give float [B]"),
        (METHOD + REMEMBERS, "class Method has remember() alone: remember() takes what notes() give"),
        (METHOD + REMEMBERS.replace("remember", "notes"), "class Method has notes() alone"),
        (
            METHOD + HOLDS.replace("HELD", "{'n': 0}"),
            "self.memory={'n': 0} is not legal: a mapping of names to tensors",
        ),
        (METHOD + HOLDS.replace("HELD", "[1]"), "self.memory=[1] is not legal"),
    ],
)
def test_a_file_that_is_no_method_is_told_in_a_sentence(made: Made, method: str, sentence: str) -> None:
    """One line with the file, and where it can be known its line, in place of a traceback of ours."""
    with pytest.raises(RunError, match=r"^[^\n]*$") as caught:
        made(method)
    assert sentence in str(caught.value)


def test_a_model_may_import_torchvision(tmp_path: Path) -> None:
    """In a fresh process, where no module of ours has brought torchvision in, a model's file imports it first."""
    (tmp_path / "seeing.py").write_text("import torchvision\nbuilt = torchvision.models.resnet18\n")
    code = f"import ifl.models, ifl.method; ifl.models.__path__.append({str(tmp_path)!r})\n"
    code += "import sys; assert 'torchvision' not in sys.modules; ifl.method.load_file('models', 'seeing').built"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_schemas_are_in_place_before_a_file_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods and models are imported after what torchvision needs is defined."""
    said: list[str] = []
    monkeypatch.setattr(ifl.method, "define_missing", lambda: said.append("defined"))
    (folder / "my_model.py").write_text(MODEL + "import ifl.method\nifl.method.define_missing = None\n")
    load_file("models", "my_model")
    assert said == ["defined"]
