"""Tables of a report, for Markdown and for the terminal."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import rich.table

from .output import Console


class Table(NamedTuple):
    """A title, the names of columns, and rows of cells. The first cell names the row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> list[str]:
        """Returns the lines of the table in Markdown, without the title."""
        return markdown(self.columns, self.rows)

    def show(self, console: Console) -> None:
        """Prints the table. In a narrow terminal, prints each row as a line."""
        view = rich.table.Table(title=self.title)
        for index, column in enumerate(self.columns):
            view.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for cells in self.rows:
            view.add_row(*cells)
        options = console.options.update(width=1000)
        if console.measure(view, options=options).maximum <= console.width:
            console.print(view)
            return
        for cells in self.rows:
            pairs = zip(self.columns, cells, strict=True)
            console.print(", ".join(f"{column} {cell}" for column, cell in pairs if cell))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown. All columns but the first are aligned right."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], f"|---{'|---:' * (len(header) - 1)}|", *lines[1:]]
