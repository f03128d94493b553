"""The page: one file that needs nothing else, safe for any name, sorted by mouse and keyboard in a real Chromium, and
no wider than a phone.
"""

from __future__ import annotations

import html.parser
import re
import shutil
from pathlib import Path

import pytest

from analysis.inputs.frame import tidy
from analysis.inputs.runs import Run, load_runs
from analysis.report.explain import explain_cell
from analysis.report.html import page
from analysis.tables.cells import Table, fill_table
from analysis.tables.presentation import blocks, p_text, percent
from recipes.table_layout import Layout, available, load_layout
from tests.helpers.browser import CHROMIUM, Page, browser
from tests.helpers.folders import write_rich_run

METHODS = {"glt_baseline": 0.5, "glt_crt": 0.55, "glt_ifl": 0.8, "glt_crt_ifl": 0.7}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }} {% raw %}",
    "\"'><b>&amp;",
    "a" * 400,
    "\u202e\u2028 数字",
    "javascript:alert(3)",
    "]]>--><!--",
]


def made(folder: Path, layouts: list[Layout]) -> tuple[list[Table], list[Run]]:
    runs, _ = load_runs(folder)
    frame, problems = tidy(runs)
    return [fill_table(layout, runs, frame, problems) for layout in layouts], runs


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Table], list[Run]]:
    """Two tables; some rows have no run, and one has an unfinished one."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe, skill in METHODS.items():
        for train in ("glt", "cbl"):
            write_rich_run(folder, recipe, train, skill=skill)
    (write_rich_run(folder, "glt_lws") / "done").unlink()
    return made(folder, [load_layout(available()[name]) for name in ("digits_clt_glt", "digits_overall")])


def hostile(folder: Path) -> tuple[list[Table], list[Run]]:
    """A table whose labels, groups, run folders, classes and commands are hostile."""
    rows = [{"group": word, "recipe": f"glt_{i}", "label": word} for i, word in enumerate(HOSTILE)] + [
        {"group": "g", "recipe": "glt_baseline", "label": "<i>x</i>"}
    ]
    layout = load_layout(available()["digits_overall"])
    path = write_rich_run(folder, names=tuple(HOSTILE))
    path.rename(folder / "<img src=x onerror=alert(4)> '\"")
    meta = folder / "<img src=x onerror=alert(4)> '\"" / "meta.json"
    meta.write_text(meta.read_text().replace("slurm/launch.py", "</pre><script>alert(5)</script>"))
    return made(folder, [Layout(**{**layout.model_dump(), "name": "</title><script>alert(6)</script>", "rows": rows})])


class Parsed(html.parser.HTMLParser):
    """Ids, links, tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value or "")
            if key == "href" and tag == "a":
                self.links.append(value or "")
            if key == "src" or (key == "href" and tag != "a"):
                self.loaded.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)


def test_page_is_one_file_whose_links_resolve(tables: tuple[list[Table], list[Run]]) -> None:
    """Ids are distinct, every link leads to one of them, and nothing is loaded from anywhere but the file itself."""
    text = page("T", tables[0], [], [], Path(), tables[1], ["something is left out"])
    parsed = Parsed(text)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert (
        parsed.links
        and {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
        and all(link.startswith("#") for link in parsed.links)
    )
    assert (
        all(address.startswith("data:") for address in parsed.loaded) and "@import" not in text and "url(" not in text
    )
    assert "default-src 'none'" in text


def test_page_shows_the_tables_numbers(tables: tuple[list[Table], list[Run]]) -> None:
    """Each cell has the number as the table prints it, and links to a run behind it; one without a number links to the
    notes that say why.
    """
    (table, _), runs = tables
    text = page("T", [table], [], [], Path(), runs, [])
    shown = re.findall(
        r'<td[^>]*data-value="([^"]*)"><a href="([^"]*)" data-cell="0 (\d+) (\d+)"[^>]*>([^<]*)</a>', text
    )
    assert len(shown) == len(table.layout.rows) * len(table.layout.columns)
    order = [column for part in blocks(table.layout) for column in part.columns]
    assert [int(column) for _, _, row, column, _ in shown if row == "0"] == order
    for value, href, row, column, number in shown:
        cell = table.cells[int(row)][int(column)]
        assert number == (percent(cell) or "--")
        if cell.mean is None:
            assert value == "" and href == "#notes-0"
        else:
            assert (
                float(value) == pytest.approx(cell.mean, abs=1e-8)
                and runs[int(href.removeprefix("#run-"))] == cell.runs[0]
            )


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """No label, group, run, class or command becomes a tag, an attribute, a template or a script; each stands on the
    page as it is.
    """
    tables, runs = hostile(tmp_path)
    text = page("<b>T</b>", tables, [], [], Path(), runs, ["<script>alert(7)</script>"])
    parsed = Parsed(text)
    assert (
        parsed.tags.count("script") == 2
        and "img" not in parsed.tags
        and "b" not in parsed.tags
        and parsed.handlers == []
    )
    assert "{{ 7 * 7 }}" in text and "49" not in re.findall(r'<th scope="row">([^<]*)', text)


def test_page_repeats_byte_for_byte(tables: tuple[list[Table], list[Run]]) -> None:
    """The same tables give the same bytes."""
    assert page("T", tables[0], [], [], Path(), tables[1], []) == page("T", tables[0], [], [], Path(), tables[1], [])


# --------------------------------------------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; the Debian package chromium has it (`make system`)")
    profile = tmp_path_factory.mktemp("profile")
    with browser(profile) as tab:
        yield tab
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def file(tables: tuple[list[Table], list[Run]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(page("Results", tables[0], [], [], Path(), tables[1], []), encoding="utf-8")
    return file


def rows(tab: Page, table: int = 0) -> list[str]:
    return tab.value(
        f"[...document.querySelectorAll('table[data-table=\"{table}\"] tbody tr[data-row]')].map(r => r.dataset.row)"
    )


def sorted_by(table: Table, column: int) -> list[int]:
    """Rows with a number from the best to the worst; ties in the table's order."""
    have = [row for row, cells in enumerate(table.cells) if cells[column].mean is not None]
    return sorted(have, key=lambda row: -table.cells[row][column].mean)


def test_sorting_by_mouse_and_keyboard(chromium: Page, file: Path, tables: tuple[list[Table], list[Run]]) -> None:
    """A click or Enter or a space on a column sorts best first, then worst first, then as it was; rows without a number
    are last; what a screen reader is told follows.
    """
    table = tables[0][0]
    shown = [column for part in blocks(table.layout) for column in part.columns]
    place = next(i for i, column in enumerate(shown) if table.layout.columns[column].subset == "few")
    best, without = (
        sorted_by(table, shown[place]),
        [row for row, cells in enumerate(table.cells) if cells[shown[place]].mean is None],
    )
    chromium.complaints.clear()
    chromium.open(file)
    as_it_was = rows(chromium)
    assert as_it_was == [str(row) for row in range(len(table.layout.rows))] and best != sorted(best)
    button = f"table[data-table='0'] button[data-column='{place}']"
    state = f"document.querySelector(\"{button}\").closest('th').getAttribute('aria-sort')"

    def clicked() -> None:
        chromium.click(button)

    def entered() -> None:
        chromium.value(f'document.querySelector("{button}").focus()')
        chromium.press("Enter")

    def spaced() -> None:
        chromium.value(f'document.querySelector("{button}").focus()')
        chromium.press(" ")

    for act in (clicked, entered, spaced):
        act()
        assert [int(row) for row in rows(chromium)] == best + without and chromium.value(state) == "descending"
        assert "descending" in chromium.value("document.getElementById('status-0').textContent")
        assert chromium.value("document.querySelectorAll('table[data-table=\"0\"] tr.group').length") == 0
        act()
        assert [table.cells[int(row)][shown[place]].mean for row in rows(chromium)[: len(best)]] == sorted(
            table.cells[row][shown[place]].mean for row in best
        )
        assert [int(row) for row in rows(chromium)[len(best) :]] == without and chromium.value(state) == "ascending"
        act()
        assert rows(chromium) == as_it_was and chromium.value(state) == "none"
        assert chromium.value("document.querySelectorAll('table[data-table=\"0\"] tr.group').length") == 3
    chromium.click("table[data-table='0'] button[data-column='-1']")
    labels = chromium.value(
        "[...document.querySelectorAll('table[data-table=\"0\"] tbody th[scope=row]')].map(e => e.textContent)"
    )
    assert labels == chromium.value(f"{labels!r}.sort((a, b) => a.localeCompare(b, 'en'))") and rows(chromium, 1) == [
        str(row) for row in range(len(rows(chromium, 1)))
    ]
    assert chromium.complaints == []


def test_keyboard_reaches_everything(chromium: Page, file: Path) -> None:
    """Tab goes from the skip link through the sections into the first table, whose scrolled part, columns and numbers
    can be focused, and the focus is seen.
    """
    chromium.open(file)
    seen = []
    for _ in range(12):
        chromium.press("Tab")
        seen.append(
            chromium.value(
                "(e => e.className + '|' + e.tagName + '|' + getComputedStyle(e).outlineStyle)(document.activeElement)"
            )
        )
    assert (
        seen[0].startswith("skip|A")
        and any(one.startswith("scroll|DIV") for one in seen)
        and any("|BUTTON|" in one for one in seen)
    )
    assert all(one.endswith("|solid") for one in seen)


def test_a_number_opens_what_stands_behind_it(
    chromium: Page, file: Path, tables: tuple[list[Table], list[Run]]
) -> None:
    """The dialog has the cell's value, interval, test and runs; its link leads to the run, opened; Escape closes it,
    and focus is back on the number.
    """
    (table, _), runs = tables
    row = [row.recipe for row in table.layout.rows].index("glt_ifl")
    fact = explain_cell(table, row, 3)
    chromium.complaints.clear()
    chromium.open(file)
    cell = f"a[data-cell='0 {row} 3']"
    chromium.value(f'document.querySelector("{cell}").focus()')
    chromium.press("Enter")
    text = chromium.value("document.getElementById('behind').open && document.getElementById('behind').innerText")
    run = fact["runs"][0]
    for part in (
        f"{100 * fact['mean']:.2f}",
        f"{100 * fact['interval'][0]:.2f} to {100 * fact['interval'][1]:.2f}",
        fact["twin"]["label"],
        f"p = {p_text(fact['twin']['p'])} (",
        run["name"],
        f"{run['right']} of {run['samples']} samples right",
    ):
        assert part in text
    chromium.press("Escape")
    assert chromium.value(
        f"!document.getElementById('behind').open && document.activeElement === document.querySelector(\"{cell}\")"
    )
    chromium.click(cell)
    chromium.click("#behind-facts a")
    number = [run.name for run in runs].index(fact["runs"][0]["name"])
    assert chromium.value("location.hash") == f"#run-{number}"
    assert chromium.value(
        f"new Promise(done => setTimeout(() => done(document.getElementById('run-{number}').open && "
        "!document.getElementById('behind').open), 100))"
    )
    assert runs[number].commit in chromium.value(f"document.getElementById('run-{number}').innerText")
    missing = next(row for row, cells in enumerate(table.cells) if cells[3].mean is None)
    chromium.click(f"a[data-cell='0 {missing} 3']")
    assert "no number: " in chromium.value("document.getElementById('behind').innerText")
    assert chromium.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(chromium: Page, file: Path, tmp_path: Path, width: int) -> None:
    """At a phone's, a tablet's and a desk's width the page is as wide as the window, also with hostile names and a
    dialog; wide tables scroll inside themselves.
    """
    tables, runs = hostile(tmp_path / "runs")
    other = tmp_path / "hostile.html"
    other.write_text(page("<b>T</b>", tables, [], [], Path(), runs, [HOSTILE[4]]), encoding="utf-8")
    chromium.complaints.clear()
    for each in (file, other):
        chromium.open(each, width=width, height=740)
        chromium.value("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        chromium.click("a[data-cell='0 0 0']")
        assert chromium.value("document.documentElement.scrollWidth") <= width
        assert chromium.value(
            "(b => b.left >= 0 && b.right <= innerWidth)(document.getElementById('behind').getBoundingClientRect())"
        )
    assert chromium.complaints == []  # no alert either


def test_sixteen_numbers_with_spread_fit_a_desk(chromium: Page, tmp_path: Path) -> None:
    """At 1280 pixels the table of two protocols shows numbers, deviations, intervals and marks without scrolling."""
    for recipe in ("glt_baseline", "glt_ifl"):
        for seed in range(2):
            write_rich_run(tmp_path / "runs", recipe, seed=seed, skill=0.9 if "ifl" in recipe else 0.4)
    layout = load_layout(available()["digits_clt_glt"]).model_copy(update={"seeds": [0, 1, 2]})
    tables, runs = made(tmp_path / "runs", [layout])
    assert tables[0].cells[8][0].std is not None and tables[0].cells[8][0].marked
    file = tmp_path / "page.html"
    file.write_text(page("T", tables, [], [], Path(), runs, []), encoding="utf-8")
    chromium.open(file)
    assert chromium.value("(box => box.scrollWidth - box.clientWidth)(document.querySelector('.scroll'))") == 0


def test_print_has_no_controls_and_whole_tables(chromium: Page, file: Path, tmp_path: Path) -> None:
    """On paper the navigation is gone and a table is as wide as it is, not scrolled; the PDF has pages."""
    chromium.open(file)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert chromium.value("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    chromium.call("Emulation.setEmulatedMedia", media="")
    chromium.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 20000
