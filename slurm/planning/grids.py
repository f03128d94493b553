"""`grid=` of a command: its runs once for each point of the grid."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.common.errors import RecipeError
from recipes.resolve import FIRST, source_of, without_first
from recipes.schema import Recipe
from recipes.sweeps.grid import Grid, Point, of_training, read_grid
from recipes.table_layout import OF_THE_TABLE, Layout

NO_POINT = Point((), {})


def grid_of(text: str | None, words: Sequence[str], layout: Layout | None) -> Grid | None:
    """Read the grid of a command, and refuse it where something else decides a key of it.

    Args:
        text: what stands behind `grid=`; None where nothing does.
        words: the command's other words.
        layout: the table whose runs are asked for, if any.

    Raises:
        RecipeError: the grid is not legal, or the command, the table or one of its rows decides a key of it.
    """
    if text is None:
        return None
    grid = read_grid(text)
    for key, _ in grid.axes:
        if any(word.startswith(f"{key}=") for word in words):
            raise RecipeError(f"{key}= and grid={text} do not go together: give {key} in one of the two")
        if layout and without_first(key) in OF_THE_TABLE:
            raise RecipeError(f"grid={text} and table= do not go together: the table {layout.name} says {key}")
        if row := next((row for row in layout.rows if key in row.set), None) if layout else None:
            raise RecipeError(f"grid={text} and table= do not go together: the row {row.label} sets {key} itself")
    return grid


def refuse_rows(grid: Grid, recipe: Recipe) -> None:
    """Refuse a grid that a table's row cannot have.

    Args:
        grid: the command's.
        recipe: the row's, without the grid.

    Raises:
        RecipeError: it has IFL's values and would switch IFL on in the row, or a first stage's and the row has none.
    """
    keys = [key for key, _ in grid.axes]
    if recipe.ifl is None and (key := next((key for key in keys if key.startswith("ifl.")), None)):
        raise RecipeError(
            f"grid={grid.text} and table= do not go together: {key} would switch IFL on in the row of {recipe.recipe}; "
            "a grid of recipe= is legal, or a table whose rows have IFL"
        )
    if source_of(recipe) is None and (key := next((key for key in keys if key.startswith(FIRST)), None)):
        raise RecipeError(
            f"grid={grid.text} and table= do not go together: {key} is of a first stage, and the row of "
            f"{recipe.recipe} has none; a grid of recipe= is legal, or a table whose rows have first stages"
        )


def announcement(grid: Grid, recipes: Sequence[Recipe], rows: int, others: int) -> list[str]:
    """Say how many runs a grid makes.

    Args:
        grid: the command's.
        recipes: of the runs that it makes.
        rows: how many rows the table has; 0 for a recipe.
        others: how many runs those build on that the command makes, too.
    """
    each = f", for each of {rows} rows" if rows else ""
    of_first = [key.startswith(FIRST) for key, _ in grid.axes]
    with_values = f"with its {FIRST} values" if any(of_first) else "without the grid's values"
    first = f", and {others} that they build on, {with_values}" if others else ""
    said = [f"grid: {grid}{each}: {len(recipes)} run{'s' * (len(recipes) > 1)}{first}"]
    idle = {recipe.recipe: source_of(recipe) is not None for recipe in recipes if not recipe.trains}
    if idle and any(of_training(key) for key, _ in grid.axes):
        once = ": made once, without values of the grid" if grid.is_of_training else ""
        judges = f"; {FIRST}KEY in grid= tries values of what is judged" if any(idle.values()) else ""
        said.append(f"values of training change no number of what trains nothing, {', '.join(idle)}{once}{judges}")
    return said
