"""Class vectors of a data set, by the text tower of a CLIP model.

    python -m ifl.clip NAME weights=FILE data=NAME out=FILE

    NAME              a model of open_clip, such as ViT-B-32; also open_clip:NAME
    weights=FILE      its checkpoint, both towers; nothing is downloaded
    data=NAME         the data set, whose class names are read from its dataset.json
    data.root=DIR     where data sets lie (default: data/ in the project)
    out=FILE          the file for method.text, such as birds.safetensors
    templates=FILE    a template on each line, such as `a photo of a {}.`; {} is the class (default: `templates` in the
                      notes of dataset.json, else that one)
    names=FILE        what each class is called in the templates, a line a class in the order of the ids, where its name
                      in the data set is no word, as ImageNet's are none

It needs the package open_clip_torch. The same file, on any data with these classes, serves zero-shot classification
(recipe=glt_clip_zeroshot) and as the start of any linear or cosine classifier.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from recipes.common.cli import asks_help, key_values
from recipes.common.errors import DataError, UserError, one_line
from recipes.common.files import file_digest
from recipes.common.output import ends_told, go_on_unread
from recipes.schema import PROJECT
from sharding.format.dataset import Dataset
from sharding.open import open_dataset

KEYS = ("weights", "data", "data.root", "out", "templates", "names")
NEEDED = ("weights", "data", "out")
TEMPLATE = "a photo of a {}."
"""CLIP's own, section 3.1.4."""


def make(name: str, weights: Path, dataset: Dataset, templates: Sequence[str], words: Sequence[str], out: Path) -> None:
    """Write the class vectors of a data set, float32 [K, D].

    Each is the mean of its templates' unit vectors, brought to length 1, as open_clip makes a zero-shot classifier.

    Args:
        name: of the model in open_clip.
        weights: its checkpoint.
        dataset: whose classes they are.
        templates: each with a {} for the class.
        words: K, what each class is called in them.
        out: the file.

    Raises:
        DataError: the library is not installed, or has no such model, or the weights are not its own.
    """
    from ifl.clip.class_vectors import ClassVectors, write_vectors
    from sharding.images.open_clip_models import library, open_clip_model

    clip, model = library(), cast("Any", open_clip_model(name, {}, weights))
    vectors_DK = clip.build_zero_shot_classifier(model, clip.get_tokenizer(name), list(words), list(templates))
    scale = float(model.logit_scale.detach().exp())
    made_by = {"model": f"open_clip:{name}", "weights_sha256": file_digest(weights), "logit_scale": repr(scale)}
    write_vectors(out, ClassVectors(vectors_DK.T.float(), dataset.class_names, templates, made_by))
    print(
        f"{out}: {len(words)} classes x {len(templates)} templates, {len(vectors_DK)} numbers each, of open_clip:{name}"
    )
    if abs(scale - 100) > 0.01:  # that of the released CLIP models, and the method's default
        print(f"the model's logit scale is {scale:.6g}: method.args.scale={scale:.6g} gives its own confidences")


def lines_of(key: str, file: str) -> list[str]:
    """Read the lines of a text file that a word names, without blank ones.

    Raises:
        DataError: it cannot be read, or has none.
    """
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{key}={file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{key}={file} is no text in UTF-8") from None
    if not lines:
        raise DataError(f"{key}={file} is empty; a line for each is legal")
    return lines


def checked(templates: Sequence[str], where: str) -> list[str]:
    """Return templates that each hold one {}, and no other brace.

    Raises:
        DataError: one does not.
    """
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise DataError(
                f"the template {template!r} ({where}) is not legal: one {{}} for the class is, as {TEMPLATE}"
            )
    return list(templates)


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status, 2 for what the user did wrong."""
    if asks_help(words) or not words:
        print(__doc__)
        return 0
    try:
        names = [word.removeprefix("open_clip:") for word in words if "=" not in word]
        given = key_values((word for word in words if "=" in word), KEYS)
        missing = [f"{key}=" for key in NEEDED if key not in given]
        missing = missing if len(names) == 1 else ["one model's NAME", *missing]
        if missing:
            raise DataError(f"{missing[0]} is needed: python -m ifl.clip NAME weights=FILE data=NAME out=FILE")
        dataset = open_dataset(given.get("data.root", PROJECT / "data"), given["data"])
        if "templates" in given:
            templates = checked(lines_of("templates", given["templates"]), f"templates={given['templates']}")
        else:
            templates = checked(dataset.meta.get("notes", {}).get("templates", [TEMPLATE]), "dataset.json")
        called = lines_of("names", given["names"]) if "names" in given else dataset.class_names
        if len(called) != dataset.num_classes:
            raise DataError(
                f"names={given['names']} has {len(called)} lines, and {given['data']} {dataset.num_classes} classes"
            )
        if Path(given["out"]).suffix != ".safetensors":
            raise DataError(f"out={given['out']} is not legal: a name that ends in .safetensors is")
        make(names[0], Path(given["weights"]), dataset, templates, called, Path(given["out"]))
        return 0
    except UserError as error:
        print(f"ifl.clip: {one_line(str(error))}", file=sys.stderr)
    except OSError as error:
        print(f"ifl.clip: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    go_on_unread()
    raise SystemExit(ends_told("ifl.clip", lambda: main(sys.argv[1:])))
