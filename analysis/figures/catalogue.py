"""Every figure of the filled tables, with its name and caption."""

from __future__ import annotations

from dataclasses import dataclass, field

from matplotlib.figure import Figure

from analysis.claims.ranks import AverageRanks, average_ranks
from analysis.figures import environments, figure5, fonts, learning_curves, long_tail
from analysis.figures.average_ranks import average_ranks_figure
from analysis.figures.methods import Pair, Study, studies
from analysis.stats.bootstrap import ALPHA
from analysis.tables.cells import Table
from recipes.table_layout import PROTOCOLS


@dataclass(frozen=True)
class NamedFigure:
    """A figure with the name of its files and what it shows, in a sentence or two."""

    name: str
    caption: str
    figure: Figure


def draw_all(tables: list[Table], pair: str | None = None) -> tuple[list[NamedFigure], list[str]]:
    """Draw every figure that the runs in these tables allow.

    Args:
        tables: filled tables; methods are compared within one data set, preset and selection.
        pair: the recipe of the method that is shown in depth, without and with IFL; default: see `Study.chosen`.

    Returns:
        The figures, and remarks on what is left out.
    """
    drawn: list[NamedFigure] = []
    remarks: list[str] = []
    found = studies(tables)
    for study in found:
        for one in _of_study(study, tables, pair, remarks):
            name = one.name if len(found) == 1 else f"{study.data}_{study.preset}_{study.select}_{one.name}"
            drawn.append(NamedFigure(name, one.caption, one.figure))
    for table in tables:
        drawn += [_ranks(table, of_protocol) for of_protocol in average_ranks(table)]
        figure, said = learning_curves.learning_curves(table)
        remarks += said
        if figure is None:
            remarks.append(f"{table.layout.name}: no learning curves, none of its runs was evaluated while it trained")
            continue
        drawn.append(
            NamedFigure(
                f"curves_{table.layout.name}",
                f"{table.layout.name}: overall accuracy and precision on the test splits over epochs, of every run "
                "that counts.",
                figure,
            )
        )
    remarks += [fonts.NOTE] * any([fonts.fit_fonts(one.figure)[1] for one in drawn])
    return drawn, list(dict.fromkeys(remarks))


def _ranks(table: Table, found: AverageRanks) -> NamedFigure:
    left_out = f" Without a number on some data set: {', '.join(found.left_out)}." if found.left_out else ""
    return NamedFigure(
        f"ranks_{table.layout.name}_{found.protocol}",
        f"{table.layout.name}: average ranks by overall accuracy over {', '.join(found.data)}, "
        f"{found.protocol.upper()}; 1 is the best. Bars join methods of which no two differ with p < {ALPHA} "
        f"(Demsar 2006, corrected by Holm's method over all pairs).{left_out}",
        average_ranks_figure(found),
    )


@dataclass
class _Album:
    """The figures drawn so far, and remarks on what is left out."""

    remarks: list[str]
    drawn: list[NamedFigure] = field(default_factory=list)

    def add(self, name: str, caption: str, made: tuple[Figure | None, list[str]]) -> None:
        figure, said = made
        self.remarks.extend(said)
        if figure is not None:
            self.drawn.append(NamedFigure(name, caption, figure))


def _of_study(study: Study, tables: list[Table], recipe: str | None, remarks: list[str]) -> list[NamedFigure]:
    album = _Album(remarks)
    pair = study.chosen(recipe)
    if pair and recipe is not None and recipe not in (pair.plain.recipe, pair.ifl.recipe):
        remarks.append(
            f"{study.data}, preset {study.preset}, {study.select} epoch: no finished runs of pair={recipe} without and "
            f"with IFL, so {pair.ifl.label} is shown in depth"
        )
    made = figure5.figure5(study, pair, tables)
    album.add("figure5", figure5_caption(study, pair, made[0]), made)
    by_attribute = ", and by attribute group" if study.has_attributes else ""
    for protocol in study.protocols:
        album.add(
            f"pairs_{protocol}",
            f"Every method without and with IFL over epochs, {protocol.upper()}.",
            (figure5.all_pairs(study, protocol), []),
        )
        album.add(
            f"classes_{protocol}",
            f"Accuracy of every method by class along the long tail, overall{by_attribute}, "
            f"{protocol.upper()} ({study.select} epoch, mean over seeds).",
            long_tail.all_methods(study, protocol),
        )
    if pair is None:
        remarks.append(f"{study.data}: no figures of a method and its twin with IFL, they need finished runs of both")
        return album.drawn
    _of_pair(album, study, pair)
    return album.drawn


def figure5_caption(study: Study, pair: Pair | None, figure: Figure | None) -> str:
    """Say what those panels show that there are."""
    titles = [axes.get_title() for axes in figure.axes] if figure else []
    over = [title[1] for title in titles if " overall " in title]
    above = [title[1] for title in titles if " points of " in title]
    parts = ["As the paper's figure 5."]
    if over:
        parts.append(f"({', '.join(over)}) a method without and with IFL, evaluated on the test split while it trains.")
    ifl, equal = study.at_both_budgets(pair) if pair else (None, None)
    if over and ifl and ifl.budget == "paper":
        beside = "; beside it IFL at equal images" if equal else ""
        parts.append(f"At the paper's budget IFL sees the images of every environment from epoch 0 on{beside}.")
    if above:
        parts.append(
            f"({', '.join(above)}) every method's overall improvement on the first row's, class-wise (CLT) against "
            "attribute-wise (ALT), in points of percent."
        )
    return " ".join(parts)


def _of_pair(album: _Album, study: Study, pair: Pair) -> None:
    """Add the figures that show one method in depth, without and with IFL."""
    for protocol in study.protocols:
        album.add(
            f"tail_{protocol}",
            f"{pair.plain.label} and {pair.ifl.label}, {protocol.upper()}: (a) accuracy of each class above "
            "its number of training images"
            + (
                ", (b) accuracy of each attribute group, (c-e) accuracy of each class and attribute group, and what "
                "IFL changes in it"
            )
            * study.has_attributes
            + ".",
            long_tail.one_pair(study, pair, protocol),
        )
        album.add(
            f"confusion_{protocol}",
            f"The classes that {pair.plain.label} confuses most, {protocol.upper()}: how many in a hundred of "
            f"each true class are taken for which.",
            long_tail.confusions(study, pair, protocol),
        )
    runs = [
        (f"Train-{train.upper()}", pair.ifl.runs[train][0])
        for train in dict.fromkeys(train for train, _ in PROTOCOLS.values())
        if pair.ifl.runs.get(train)
    ]
    album.add(
        "environments",
        f"{pair.ifl.label}: attribute groups' shares of the draws from {environments.last_environment(runs[0][1])}, "
        "how many images it amounts to, and how far the class centers moved (mean of each class group). Until the "
        "first rebuild it is environment 1. Pale lines: the same classes with equal weights inside each, so that the "
        "rest is what the scores do.",
        environments.environment_panels(runs),
    )
    for title, run in runs:
        album.add(
            f"images_{run.train}",
            f"{pair.ifl.label}, {title}: the images that {environments.last_environment(run)} weighs most and least "
            "after its last rebuild, of some classes from head to tail.",
            environments.extreme_images(title, run),
        )
