"""Numbers and pictures of a built data set: `python -m sharding.describe DIR out=FOLDER [classes=N] [images=N]`.

    DIR        a data set's folder, DATA_ROOT/NAME
    out=DIR    where the files go; it is made
    classes=N  rows of a contact sheet (default 10), spread along the tail with its two ends
    images=N   images in a cell of it (default 3)

Numbers: describe.json (all), classes.csv (images by split, class and attribute group), attributes.csv (by split: the
groups, and what the samples' own entries say, a look, a cluster or a list of attributes), images.csv (widths, heights,
bytes by split). Pictures, each as PDF and PNG: classes (the long tail), attributes (by split), sizes, and
contact-SPLIT, a sheet by class and attribute group.
The same data give the same bytes.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.common.cli import asks_help, folder_and_options, whole_number
from recipes.common.errors import DataError, one_line
from recipes.common.output import ends_told, go_on_unread
from sharding.checks.statistics import measures, numbers, read, spread, tables
from sharding.open import open_dataset

KEYS = ("out", "classes", "images")


def describe(root: Path, name: str, out: Path, classes: int = 10, images: int = 3) -> list[Path]:
    """Write numbers and pictures of the data set `root/name` to `out`.

    Args:
        root: the folder of data sets.
        name: the data set's folder in it.
        out: folder for the files; it is made.
        classes: rows of a contact sheet, one class each.
        images: images in one cell of a contact sheet.

    Returns:
        The files' paths.

    Raises:
        DataError: the data set does not open, or an image's header cannot be read.
    """
    from sharding.checks.figures import (  # slow to import
        attribute_bars,
        class_histogram,
        contact_sheet,
        save,
        size_histograms,
    )

    dataset = open_dataset(root, name)
    opened, splits = read(dataset)
    said = numbers(dataset, splits)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "describe.json"]
    written[0].write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    for table, rows in tables(said).items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        written.append(out / f"{table}.csv")
        written[-1].write_text(text.getvalue(), encoding="utf-8")
    figures = {
        "classes": class_histogram(said),
        "attributes": attribute_bars(said),
        "sizes": size_histograms({relative: measures(split) for relative, split in splits.items()}),
    }
    for relative, split in opened.items():
        if relative.endswith(("/train", "/test_gbl")):
            labels = spread(
                splits[relative].counts.sum(1)
                if relative.endswith("/train")
                else splits[next(iter(splits))].counts.sum(1),
                classes,
            )
            figures[f"contact-{relative.replace('/', '-')}"] = contact_sheet(split, said, relative, labels, images)
    for figure, drawn in figures.items():
        written += save(drawn, out, figure)
    return written


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    if not arguments or asks_help(arguments):
        print(__doc__.strip())
        return 0
    try:
        word, options = folder_and_options(arguments, KEYS)
        classes, images = whole_number(options, "classes", 10, 1), whole_number(options, "images", 3, 1)
        if "out" not in options:
            raise DataError("out= is missing; out=FOLDER, where the files go, would be legal")
        folder = Path(os.path.abspath(word))  # not resolved, as in sharding.verify
        if not folder.is_dir():
            raise DataError(f"{word} is not a folder; a data set's, DATA_ROOT/NAME, would be legal")
        written = describe(folder.parent, folder.name, Path(options["out"]), classes, images)
        print(f"{folder.name}: {', '.join(path.name for path in written)} in {options['out']}")
        return 0
    except DataError as error:
        print(f"sharding.describe: {one_line(str(error))}", file=sys.stderr)
    except OSError as error:  # a folder that cannot be made or written
        print(f"sharding.describe: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    go_on_unread()
    raise SystemExit(ends_told("sharding.describe", lambda: main(sys.argv[1:])))
