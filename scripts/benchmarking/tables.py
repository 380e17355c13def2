"""A table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """Cells of text; all columns but the first hold figures.

    Attributes:
        title: What it shows.
        head: The columns' names.
        rows: The cells.
        words: How many columns at the left hold words.
        note: What to know before reading it.
        plot: A file that shows it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    note: str = ""
    plot: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown, without its title and its note."""
        rule = ["---" if index < self.words else "---:" for index in range(len(self.head))]
        return "\n".join(f"| {' | '.join(_escaped(cells))} |" for cells in (self.head, rule, *self.rows))

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for index, name in enumerate(self.head):
            table.add_column(name, justify="left" if index < self.words else "right")
        for cells in self.rows:
            table.add_row(*(cell.replace("**", "") for cell in cells))
        return table


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
