"""Draws the pictures of a data set: its long tail, its attributes, its images' sizes, and contact sheets.

The numbers come from sharding/checks/statistics.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # the backend must be chosen before the imports below

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib.typing import RcKeyType
from PIL import Image

from sharding.format.dataset import Split
from sharding.images.decoders import decode

# Okabe and Ito, "Color Universal Design" (2008). The three colours also differ in lightness, and hatches keep them
# apart in grey print.
GROUPS = ("#0072B2", "#E69F00", "#CC79A7")
HATCHES = ("", "////", "....")
LINES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":", "-.")
CLASS_WORDS, ATTRIBUTE_WORDS = ("Many", "Medium", "Few"), ("Many_A", "Medium_A", "Few_A")
WIDTH = 7.2
BARS = 40  # up to so many classes, each has a bar and a name
STYLE: dict[RcKeyType, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
}
CELL = 102  # pixels of a contact sheet's image with its frame


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png (200 dpi) to `out` and return their paths.

    No date or version is written, so the same figure gives the same bytes.
    """
    save_png(figure, out / f"{name}.png")
    with matplotlib.rc_context(STYLE):
        figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return [out / f"{name}.pdf", out / f"{name}.png"]


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG of 200 dpi, without date or version."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a `$` in a class's name is a dollar
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=200, metadata={"Software": None})


def class_histogram(said: Mapping[str, Any]) -> Figure:
    """Draw the images of each class: a panel for each training split, with lines for the splits it is tested on.

    `said`: what `statistics.numbers` gives, here and below.
    """
    trains = [relative for relative in said["splits"] if relative.endswith("/train")] or list(said["splits"])[:1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6 * len(trains)), layout="constrained")
        axes = figure.subplots(len(trains), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axis, train in zip(axes, trains, strict=True):
            counts = np.array(said["splits"][train]["per_class"])
            _class_bars(axis, counts, np.array(said["class_groups"]))
            _count_lines(axis, _judged_with(said, train))
            _class_axes(axis, counts)
            title = f"{said['name']}: {train}, {int(counts.sum()):,} images, {_range(counts)} a class"
            axis.set_title(title, loc="left", fontsize=8)
            _legend_bars_first(axis)
            if len(counts) <= BARS:
                _named_ticks(axis, said["class_names"])
            elif train == trains[-1]:
                axis.set_xlabel("class id")
    return figure


def _judged_with(said: Mapping[str, Any], train: str) -> dict[tuple[int, ...], list[str]]:
    """Map counts by class to the splits of the edition that have them; splits with equal counts share a line."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for split, relative in said["editions"].get(train.partition("/")[0], {}).items():
        if relative != train and relative in said["splits"]:
            alike.setdefault(tuple(said["splits"][relative]["per_class"]), []).append(split)
    return alike


def _class_bars(axis: Axes, counts: np.ndarray, groups: np.ndarray) -> None:
    """Draw a bar for each class, coloured by its frequency group; `counts`, `groups` int64 [K]."""
    few = len(counts) <= BARS
    for group, word in enumerate(CLASS_WORDS):
        chosen = np.flatnonzero(groups == group)
        axis.bar(
            chosen,
            counts[chosen],
            width=0.8 if few else 1.0,
            color=GROUPS[group],
            hatch=HATCHES[group] if few else None,
            edgecolor="white" if few else GROUPS[group],
            linewidth=0.5 if few else 0.0,
            label=f"{word} ({len(chosen)} classes, {int(counts[chosen].sum()):,} images)",
        )


def _count_lines(axis: Axes, lines: Mapping[tuple[int, ...], Sequence[str]]) -> None:
    """Draw a line over the classes for each of `lines`: images by class -> the splits that have them."""
    for number, (per_class, names) in enumerate(lines.items()):
        axis.stairs(
            per_class,
            np.arange(len(per_class) + 1) - 0.5,
            baseline=None,
            color=LINES[(0, 2, 3, 5)[number % 4]],
            linestyle=DASHES[number % 4],
            linewidth=1.2,
            label=", ".join(names),
            zorder=3,
            path_effects=[Stroke(linewidth=2.6, foreground="white"), Normal()],
        )


def _class_axes(axis: Axes, counts: np.ndarray) -> None:
    """Set the scales of a panel over the classes."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(-0.7, len(counts) - 0.3)
    axis.set_ylim(bottom=0.7)
    axis.set_ylabel("images (log scale)")
    axis.grid(axis="x", visible=False)


def _legend_bars_first(axis: Axes) -> None:
    """Put a legend beside the panel, its bars before its lines."""
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(handles)), key=lambda number: not isinstance(handles[number], BarContainer))
    axis.legend(
        [handles[number] for number in order],
        [labels[number] for number in order],
        fontsize=6.5,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )


def attribute_bars(said: Mapping[str, Any]) -> Figure:
    """Draw the shares of the attribute groups in each split with the attributes' std.

    Below, for each kind of entry that the samples have, come its values' shares.
    """
    splits = said["splits"]
    entries = sorted({entry for split in splits.values() for entry in split["entries"] if split["entries"][entry]})
    with matplotlib.rc_context(STYLE):
        tall = 0.26 * len(splits) + 0.8
        figure = Figure(figsize=(WIDTH, tall + 2.5 * len(entries)), layout="constrained")
        axes = figure.subplots(1 + len(entries), 1, squeeze=False, height_ratios=[tall, *[2.5] * len(entries)])[:, 0]
        _group_shares(axes[0], splits)
        for axis, entry in zip(axes[1:], entries, strict=True):
            _entry_shares(axis, said, entry)
    return figure


def _group_shares(axis: Axes, splits: Mapping[str, Any]) -> None:
    for row, split in enumerate(splits.values()):
        whole, left = max(1, split["images"]), 0.0
        for group, images in enumerate(split["attribute_groups"]):
            share = images / whole
            axis.barh(row, share, left=left, color=GROUPS[group], hatch=HATCHES[group], edgecolor="white", height=0.75)
            if share > 0.06:
                axis.text(
                    left + share / 2,
                    row,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )
            left += share
        deviation = split["attributes_std"]
        axis.text(1.01, row, f"{deviation['value']:.4f}", va="center", fontsize=7)
    over = " and ".join(dict.fromkeys(split["attributes_std"]["of"] for split in splits.values()))
    axis.text(1.01, -0.95, "std", va="center", fontsize=7)
    axis.set_yticks(range(len(splits)), list(splits))
    axis.set_ylim(len(splits) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.grid(visible=False)
    axis.set_xlabel(f"share of images; std: of the shares of {over}")
    axis.legend(
        handles=[
            Patch(facecolor=GROUPS[group], hatch=HATCHES[group], edgecolor="white", label=word)
            for group, word in enumerate(ATTRIBUTE_WORDS)
        ],
        ncols=3,
        fontsize=7,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.1,
    )


def _entry_shares(axis: Axes, said: Mapping[str, Any], entry: str) -> None:
    """Draw a line for each split over the values, sorted by the first split that has them."""
    splits = {
        relative: split["entries"][entry] for relative, split in said["splits"].items() if split["entries"].get(entry)
    }
    listed = entry == "attributes" and said["attribute_names"]
    first = next(iter(splits.values()))
    every = sorted(
        {value for counted in splits.values() for value in counted},
        key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0, value),
    )
    order = sorted(every, key=lambda value: -first.get(value, 0))
    for number, (relative, counted) in enumerate(splits.items()):
        whole = sum(counted.values())
        many = len(order) > BARS
        axis.plot(
            range(len(order)),
            [counted.get(value, 0) / whole for value in order],
            color=LINES[number % 7],
            linestyle=DASHES[number % 4],
            marker=None if many else "osD^vPX"[number % 7],
            markersize=3,
            linewidth=1 if many else 0.7,
            label=f"{relative}"
            + (f"  (std {said['splits'][relative]['attributes_std']['value']:.4f})" if listed else ""),
        )
    axis.set_ylim(0, 1.05 * max(max(counted.values()) / sum(counted.values()) for counted in splits.values()))
    axis.set_ylabel("share")
    axis.set_title(f"{entry}: {len(order)} values, by their share in {next(iter(splits))}", loc="left", fontsize=8)
    if len(order) <= BARS:
        names = [
            said["attribute_names"][int(value)]
            if listed and value.isdigit() and int(value) < len(said["attribute_names"])
            else value
            for value in order
        ]
        _named_ticks(axis, names)
    else:
        axis.set_xlabel(f"{entry}, from the most frequent to the least")
    axis.legend(fontsize=6.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def size_histograms(splits: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw the shares of images by shorter side and by bytes, a line for each split; a single size becomes text.

    `splits`: relative folder -> what `statistics.measures` gives.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, what, label in zip(
            axes, ("shorter side", "bytes"), ("shorter side (pixels)", "bytes of an image"), strict=True
        ):
            everything = np.concatenate([measured[what] for measured in splits.values()])
            low, high = int(everything.min()), int(everything.max())
            axis.set_xlabel(label)
            if low == high:
                axis.text(
                    0.5,
                    0.5,
                    f"all {len(everything):,} images: {low:,}",
                    ha="center",
                    va="center",
                    transform=axis.transAxes,
                )
                axis.set_xticks([])
                continue
            edges = np.geomspace(low, high * 1.001, 41)
            for number, (relative, measured) in enumerate(splits.items()):
                shares = np.histogram(measured[what], edges)[0] / len(measured[what])
                axis.stairs(
                    shares, edges, color=LINES[number % 7], linestyle=DASHES[number % 4], linewidth=1, label=relative
                )
            if high > 8 * low:
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylabel("share of the split's images")
        handles, labels = next(
            ((h, words) for h, words in (axis.get_legend_handles_labels() for axis in reversed(axes)) if h), ([], [])
        )
        if handles:
            figure.legend(handles, labels, fontsize=6.5, loc="outside right center")
    return figure


def contact_sheet(split: Split, said: Mapping[str, Any], relative: str, classes: Sequence[int], images: int) -> Figure:
    """Draw images in a row for each of `classes` and a block of columns for each attribute group.

    A cell shows the split's first `images` of the class and group; its frame tells the group.

    Raises:
        DataError: an image cannot be read.
        ValueError: an image does not decode.
    """
    index = split.index
    has = [group for group in (0, 1, 2, -1) if (index.attribute == group).any()]
    gap, block = 6, images * (CELL + 6) + 14
    sheet = Image.new("RGB", (len(has) * block - 14, len(classes) * (CELL + gap)), "white")
    for row, label in enumerate(classes):
        for column, group in enumerate(has):
            for number, member in enumerate(
                np.flatnonzero((index.label == label) & (index.attribute == group))[:images].tolist()
            ):
                sheet.paste(
                    _tile(split.read(member), GROUPS[group] if group >= 0 else "#888888"),
                    (column * block + number * (CELL + gap), row * (CELL + gap)),
                )
    with matplotlib.rc_context(STYLE):
        margin, top, width = 1.15, 0.42, WIDTH
        height = (width - margin) * sheet.height / sheet.width
        figure = Figure(figsize=(width, height + top))
        axis = figure.add_axes((margin / width, 0, (width - margin) / width, height / (height + top)))
        axis.imshow(np.asarray(sheet), interpolation="none", aspect="auto")
        axis.set_axis_off()
        counts = said["splits"][relative]["per_class"]
        train = next((said["splits"][name]["per_class"] for name in said["splits"] if name.endswith("/train")), counts)
        for row, label in enumerate(classes):
            words = (
                f"{_short(said['class_names'][label])}\n{CLASS_WORDS[said['class_groups'][label]]}, {counts[label]:,}"
                + (f"\n({train[label]:,} in training)" if not relative.endswith("/train") else "")
            )
            axis.text(-10, (row + 0.5) * (CELL + gap) - gap / 2, words, ha="right", va="center", fontsize=6.5)
        for column, group in enumerate(has):
            frame = {
                "facecolor": "white",
                "edgecolor": GROUPS[group] if group >= 0 else "#888888",
                "pad": 1.5,
                "linewidth": 1.5,
            }
            axis.text(
                column * block,
                -8,
                ATTRIBUTE_WORDS[group] if group >= 0 else "no attribute",
                fontsize=8,
                color="black",
                va="bottom",
                bbox=frame,
            )
        figure.text(0.01, 1 - 0.06 / (height + top), f"{said['name']}\n{relative}", va="top", fontsize=8)
    return figure


def _tile(data: bytes, colour: str) -> Image.Image:
    """Return the whole image in a framed square; small images are enlarged by integer factors, unsmoothed."""
    image, room = decode(data), CELL - 6
    if max(image.size) * 2 <= room:
        factor = room // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        scale = room / max(image.size)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    tile = Image.new("RGB", (CELL, CELL), colour)
    tile.paste(Image.new("RGB", (CELL - 4, CELL - 4), "white"), (2, 2))
    tile.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return tile


def _named_ticks(axis: Axes, names: Sequence[str]) -> None:
    """Write a name under each tick: horizontal, slanted or vertical, depending on the space."""
    turn = 0 if len(names) * max(len(name) for name in names) < 60 else 45 if len(names) <= 15 else 90
    axis.set_xticks(
        range(len(names)),
        [_short(name) for name in names],
        rotation=turn,
        ha="right" if turn == 45 else "center",
        fontsize=8 if turn < 90 else 6.5,
    )


def _range(counts: np.ndarray) -> str:
    return f"{counts.max():,}" + (f" to {counts.min():,}" if counts.min() < counts.max() else "")


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:16]}…"
