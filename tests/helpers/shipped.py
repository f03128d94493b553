"""The recipes, data files, tables, methods and models that come with the suite, by name. Users put theirs beside them:
what is promised of the shipped ones is tested by these names, and every file by what each legal one keeps."""

from __future__ import annotations

from pathlib import Path

from recipes.table_layout import Layout, available, is_open, load_layout
from tests.helpers.paths import PROJECT

_NAMES = {
    "recipes/*.yaml": (
        "glt_balanced_softmax glt_balanced_softmax_ifl glt_baseline glt_baseline_2n glt_bbn glt_clip_zeroshot "
        "glt_crt glt_crt_ifl glt_focal glt_ifl glt_ifl_1env glt_ifl_3env glt_ifl_center_only glt_ifl_class_means "
        "glt_ifl_no_center glt_ifl_unbalanced glt_irm glt_ldam glt_ldam_ifl glt_lff glt_logit_adjust "
        "glt_logit_adjust_ifl glt_lws glt_lws_ifl glt_mixup glt_mixup_ifl glt_randaug glt_randaug_ifl glt_ride "
        "glt_ride_ce glt_ride_ce_ifl glt_ride_ifl glt_ride_ifl_mixup glt_ride_ifl_randaug glt_tade glt_tade_ifl "
        "glt_tde"
    ),
    "recipes/data/*.yaml": "digits_glt fashion_glt imagenet_glt mscoco_glt",
    "recipes/tables/*.yaml": (
        "ablation alt budgets claims clt_glt controls demo digits_ablation digits_alt digits_clt_glt digits_overall "
        "imagenet_alt imagenet_clt_glt mscoco overall parts"
    ),
    "ifl/methods/[!_]*.py": (
        "balanced_softmax bbn ce clip_zeroshot crt experts_ce focal irm ldam lff logit_adjust lws ride tade tde"
    ),
    "ifl/models/[!_]*.py": "resnet50 resnext50_32x4d small_resnet",
}
FOLDERS = {pattern: names.split() for pattern, names in _NAMES.items()}
"""Where users' files lie beside the shipped ones -> the names of these."""
_RECIPES, DATA, TABLES, METHODS, MODELS = FOLDERS.values()
NEED_A_FILE = ("glt_clip_zeroshot",)
"""The recipes that no table has, since each needs a file of the user's."""
RECIPES = [name for name in _RECIPES if name not in NEED_A_FILE]

OPEN = ("alt", "budgets", "claims", "clt_glt", "overall", "parts")
"""The tables that are laid out on the data of a command."""


def layout_of(name: str) -> Layout:
    """A table's layout, an open one on the bundled data."""
    file = available()[name]
    return load_layout(file, ("digits_glt",) if is_open(file) else ())


def files(pattern: str) -> list[Path]:
    """All files of a pattern of `FOLDERS`, the user's among them."""
    return sorted(PROJECT.glob(pattern))


def is_own(path: Path) -> bool:
    """Whether a file is a user's beside the shipped ones."""
    return any(path.match(pattern) and path.stem not in names for pattern, names in FOLDERS.items())
