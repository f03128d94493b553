"""The rooms import strictly downward, found by parsing every file; and what must answer at once loads nothing heavy."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

ROOMS = ("recipes", "sharding", "ifl", "slurm", "analysis")
ORDER = {
    "recipes": "common backbones values declarations yaml_io identity sbatch schema messages rules folders "
    "dataset_values noted layers resolve code typed_latex table_layout sweeps",
    "sharding": "progress format plan images cache building open sources datasets checks loader_workers transport "
    "reader on_device features build verify describe coco_attributes",
    "ifl": "metrics method distributed supervision optimisation engine backbones network methods models clip "
    "invariance step_reduction saving mixup step run_log evaluator exported model_card setup evaluation post_hoc "
    "finished_run train pretrained",
    "slurm": "environment starting monitoring evaluator nodes after_run site_file code_snapshot rendezvous scaling "
    "run_folder reuse job planning local cluster upkeep status launch",
    "analysis": "labels inputs stats tables claims sweeps figures report publishing __main__",
}
"""Of each room its sub-rooms and top-level modules, from low to high: each imports only those before it, and itself."""
MOST_MODULES = 14
HEAVY = ("torch", "torchvision", "deepspeed", "pandas", "matplotlib", "webdataset", "sklearn")


def files(room: str) -> list[Path]:
    found = sorted((PROJECT / room).rglob("*.py"))
    assert found, f"no files in {room}/"
    return found


def modules_named(tree: ast.AST, package: str) -> set[str]:
    """Dotted names of all modules that a file imports, at its top or inside functions, under `if TYPE_CHECKING`,
    relatively, or by `import_module` of a literal. Of `from a import b` both a and a.b are given, since b may be a
    module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
            and node.args
        ):
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value.rstrip("."))
    return names


@cache
def imports(path: Path) -> frozenset[str]:
    package = ".".join(path.relative_to(PROJECT).parent.parts)
    return frozenset(modules_named(ast.parse(path.read_text(), str(path)), package))


@cache
def chains(path: Path) -> frozenset[str]:
    """Every attribute chain of a file, such as torch.distributed.barrier."""
    return frozenset(
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    )


def under(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def mentions(path: Path, *dotted: str) -> set[str]:
    """Which of the dotted names a file uses, as an import or as an attribute chain such as
    torch.distributed.barrier().
    """
    return {name for name in dotted if any(under(found, name) for found in chains(path) | imports(path))}


def offenders(room: str, *forbidden: str) -> dict[str, list[str]]:
    found = {
        str(path.relative_to(PROJECT)): sorted(name for name in imports(path) if under(name, *forbidden))
        for path in files(room)
    }
    return {path: names for path, names in found.items() if names}


def test_the_finder_finds() -> None:
    """The finder of these tests sees every way to import."""
    source = (
        "import a.b\nfrom c import d\ndef f():\n    from e.f import g\n    import_module('h.i')\n    "
        "importlib.import_module(f'j.{x}')\nfrom . import k\nfrom .l import m\nfrom ..n import o\n"
    )
    found = modules_named(ast.parse(source), "room.inner")
    assert {"a.b", "c", "c.d", "e.f", "e.f.g", "h.i", "j", "room.inner.k", "room.inner.l", "room.n"} <= found


# ----------------------------------------------------------------------------------------------------------- direction
def test_recipes_import_no_other_room() -> None:
    """recipes/ is at the bottom: of ours it imports recipes alone, and nothing heavy."""
    assert offenders("recipes", "sharding", "ifl", "slurm", "analysis", "numpy", *HEAVY, "submitit") == {}


def test_the_ground_floor_is_the_standard_library() -> None:
    """recipes/common/, on which all rooms stand, imports the standard library and itself alone."""
    for path in (PROJECT / "recipes" / "common").glob("*.py"):
        others = {name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names}
        assert {name for name in others if not under(name, "recipes.common")} == set(), path


def test_sharding_imports_downward() -> None:
    """sharding never imports ifl, slurm or analysis: environment weights reach it as plain arrays."""
    assert offenders("sharding", "ifl", "slurm", "analysis", "submitit", "deepspeed") == {}


def test_ifl_imports_downward() -> None:
    """ifl never imports slurm, analysis or submitit: it sees rank variables and a signal."""
    assert offenders("ifl", "slurm", "analysis", "submitit") == {}


def test_slurm_does_not_import_analysis() -> None:
    """Running and reporting meet on the disk only."""
    assert offenders("slurm", "analysis") == {}


def test_analysis_needs_recipes_and_metrics_alone() -> None:
    """analysis imports of ours only recipes and ifl.metrics, and no torch, so that a table is made on a laptop without
    it.
    """
    found = offenders(
        "analysis", "sharding", "slurm", "ifl", "torch", "torchvision", "deepspeed", "webdataset", "submitit"
    )
    allowed = {
        path: [name for name in names if not under(name, "ifl.metrics") and name != "ifl"]
        for path, names in found.items()
    }
    assert {path: names for path, names in allowed.items() if names} == {}
    for path in files("analysis"):  # `from ifl import X` names ifl too; X may be metrics alone
        assert {name for name in imports(path) if under(name, "ifl")} <= {"ifl", "ifl.metrics"} | {
            name for name in imports(path) if under(name, "ifl.metrics")
        }


def test_metrics_need_numpy_alone() -> None:
    """ifl.metrics, which analysis imports, and ifl/__init__.py, which comes with it, import numpy and the standard
    library only.
    """
    for name in ("ifl/metrics.py", "ifl/__init__.py"):
        tops = {module.split(".")[0] for module in imports(PROJECT / name)}
        assert tops - set(sys.stdlib_module_names) <= {"numpy"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    """Our own modules that a file imports. What is looked up by name (a method, a model, a builder) is none."""
    return set(imports(path) & own_modules() - {module_name(path)})


@cache
def own_modules() -> frozenset[str]:
    return frozenset(module_name(other) for room in ROOMS for other in files(room) if other.stem != "__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_sub_rooms_import_downward(room: str) -> None:
    """Inside a room each sub-room imports only those below it, in the order of `ORDER`, which names all that there
    are.
    """
    place = {name: number for number, name in enumerate(ORDER[room].split())}
    boxes = {
        module_name(path): module_name(path).split(".")[1] for path in files(room) if path.parent != PROJECT / room
    }
    boxes |= {module_name(path): path.stem for path in (PROJECT / room).glob("*.py") if path.stem != "__init__"}
    assert set(boxes.values()) == set(place)
    upward = {
        (module, name)
        for path in files(room)
        if (module := module_name(path)) in boxes
        for name in imported_modules(path) & set(boxes)
        if place[boxes[name]] > place[boxes[module]]
    }
    assert upward == set()


def test_no_circle_of_imports() -> None:
    """No module imports another that, by whatever way round, imports it."""
    graph = {module_name(path): imported_modules(path) for room in ROOMS for path in files(room)}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_data_set_imports_another() -> None:
    """A data set is one folder of sharding/datasets, and uses nothing of its neighbours."""
    datasets = PROJECT / "sharding" / "datasets"
    for path in datasets.rglob("*.py"):
        names = {name for name in imports(path) if under(name, "sharding.datasets")}
        own = f"sharding.datasets.{path.relative_to(datasets).parts[0]}"
        assert {name for name in names if not under(name, own)} == set(), path


def test_no_folder_is_too_full() -> None:
    """A folder has at most 14 modules, so that its list can be read; one file a method and a model is the contract of
    those two.
    """
    folders = {path.parent for room in ROOMS for path in files(room)} - {
        PROJECT / "ifl/methods",
        PROJECT / "ifl/models",
    }
    counts = {str(folder.relative_to(PROJECT)): len(list(folder.glob("[!_]*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_reading_knows_no_network_and_no_builder() -> None:
    """The format of a data set, and its plan, are read without what fetches or builds one."""
    for room in ("format", "plan"):
        for path in (PROJECT / "sharding" / room).glob("*.py"):
            assert not {
                name for name in imports(path) if under(name, "sharding.cache", "sharding.building", "sharding.open")
            }


# ------------------------------------------------------------------------------------------------------- one owner each
def test_one_module_owns_torch_distributed() -> None:
    """Only ifl/distributed/comm.py uses torch.distributed (and ifl/network/bn_statistics.py, to make the process groups
    that torch's SyncBatchNorm takes): collectives called in one place keep one order on all ranks."""
    users = {
        str(path.relative_to(PROJECT)): mentions(path, "torch.distributed", "torch.nn.parallel")
        for room in ROOMS
        for path in files(room)
    }
    users = {path: names for path, names in users.items() if names}
    assert (
        set(users) <= {"ifl/distributed/comm.py", "ifl/network/bn_statistics.py"} and "ifl/distributed/comm.py" in users
    )
    used = [
        node
        for node in ast.walk(ast.parse((PROJECT / "ifl/network/bn_statistics.py").read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed.")
    ]
    assert {ast.unparse(node) for node in used} <= {"torch.distributed.new_group", "torch.distributed.get_rank"}


def test_one_module_owns_deepspeed() -> None:
    """Only ifl/engine.py imports deepspeed."""
    users = {str(path.relative_to(PROJECT)) for room in ROOMS for path in files(room) if mentions(path, "deepspeed")}
    assert users == {"ifl/engine.py"}


def test_one_room_owns_submitit() -> None:
    """Only slurm/ imports submitit."""
    assert {
        str(path.relative_to(PROJECT)).split("/")[0]
        for room in ROOMS
        for path in files(room)
        if mentions(path, "submitit")
    } == {"slurm"}


def test_one_module_draws_progress() -> None:
    """Only sharding/progress.py makes tqdm's bars, so that all of them are lines in a log."""
    made = {
        str(path.relative_to(PROJECT))
        for room in ROOMS
        for path in files(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.ClassDef)
        for name in (node.bases if isinstance(node, ast.ClassDef) else [node.func, *node.args])
        if ast.unparse(name).split(".")[0] in ("tqdm", "trange")
    }
    assert made == {"sharding/progress.py"}


# --------------------------------------------------------------------------------------------------------------- names
def test_no_file_of_slurm_hides_a_module() -> None:
    """`python slurm/launch.py` puts slurm/ first on the path: no file there bears the name of a standard or installed
    module, and no room does.
    """
    installed = {
        name for name, owners in importlib.metadata.packages_distributions().items() if "glt-suite" not in owners
    }
    assert {"numpy", "submitit", "torch"} <= installed  # the list is a real one
    taken = set(sys.stdlib_module_names) | installed
    assert {path.stem for path in files("slurm") if path.stem != "__init__"} & taken == set()
    assert set(ROOMS) & taken == set()


# ------------------------------------------------------------------------------------------------------- loaded modules
def loaded(code: str) -> set[str]:
    """Top-level modules in memory after `code` ran in a fresh Python at the project's folder."""
    script = (
        "import sys, json, io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    try:\n        "
        f"{code}\n    except SystemExit:\n        pass\nprint(json.dumps(sorted({{name.split('.')[0] for name in "
        f"sys.modules}})))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


LAUNCH = (
    "import runpy; sys.argv = ['slurm/launch.py', *{words}]; runpy.run_path('slurm/launch.py', run_name='__main__')"
)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["cluster=dry", "data=digits_glt", "recipe=glt_randaug_ifl", "nodes=4"], ["sead=1"]],
    ids=["help", "dry", "typo"],
)
def test_launcher_answers_without_anything_heavy(words: list[str]) -> None:
    """`--help`, `cluster=dry` and the refusal of a typo import neither torch, deepspeed, pandas nor anything else that
    takes long.
    """
    found = loaded(LAUNCH.format(words=words))
    assert found & set(HEAVY) == set()
    if words != ["--help"]:
        assert {"recipes", "pydantic"} <= found  # it did run
    else:
        assert "pydantic" not in found


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("recipes.schema", {"numpy", "yaml", *HEAVY}),
        ("recipes.resolve", {"numpy", *HEAVY}),
        ("sharding.plan.epoch", set(HEAVY)),
        ("sharding.format.dataset", set(HEAVY)),
        ("sharding.build", set(HEAVY)),
        ("sharding.building.packing", set(HEAVY)),
        ("sharding.images.dice", set(HEAVY)),
        ("ifl.metrics", set(HEAVY)),
        ("slurm.job", {"numpy", "submitit", *HEAVY}),
        ("slurm.cluster.sbatch", set(HEAVY)),
        ("slurm.local.process_group", set(HEAVY)),
        ("analysis.inputs.runs", {"torch", "deepspeed"}),
        ("analysis.__main__", {"torch", "deepspeed", "torchvision", "webdataset"}),
    ],
)
def test_what_each_module_may_load(module: str, heavy: set[str]) -> None:
    """Importing a module loads nothing that it is promised to do without, by whatever way round."""
    assert loaded(f"import {module}") & heavy == set()


def test_analysis_loads_without_torch() -> None:
    """All of analysis' modules together load no torch."""
    names = [module_name(path) for path in files("analysis") if not path.stem.startswith("__")]
    assert (
        loaded("; ".join(f"import {name}" for name in names)) & {"torch", "torchvision", "deepspeed", "webdataset"}
        == set()
    )
