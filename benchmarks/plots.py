"""Draws the tables of figures when the documentation is built, so that a plot always says what its table says.

A hook of MkDocs. Below each table of `benchmarks.md` with two or more columns of numbers comes a picture: one line for each
row, one bar for each column, the longest of a line as wide as the picture.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

_PAGE = "benchmarks.md"
_TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
_NUMBER = re.compile(r"^\D{0,3}?(\d[\d,]*(?:\.\d+)?)\s*([^\s\d(;,]*)")
_WIDTH, _LABEL, _BAR, _GAP, _MARGIN = 720, 250, 16, 10, 90
_COLOURS = ("#a88d7c", "#e2562b", "#2c6f7d", "#93681a", "#7a4488", "#4d7037")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number as it stands in the table."""

    column: str
    text: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a table, with those of its cells that are numbers."""

    label: str
    cells: Sequence[Cell]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put a plot below each table of the page of figures."""
    if page.file.src_uri != _PAGE:
        return markdown
    return _TABLE.sub(lambda found: f"{found[0]}\n{plot(found[0])}\n", markdown)


def plot(table: str) -> str:
    """One table as SVG; empty where there is nothing to compare."""
    lines = read(table)
    if not lines:
        return ""
    parts, y = [], 0
    for line in lines:
        most = max(cell.value for cell in line.cells) or 1.0
        parts.append(f'<text x="0" y="{y + 13}" fill="currentColor">{escape(line.label)}</text>')
        for place, cell in enumerate(line.cells):
            top = y + place * (_BAR + 3)
            width = max(1.0, (_WIDTH - _LABEL - _MARGIN) * cell.value / most)
            colour = _COLOURS[place % len(_COLOURS)]
            parts.append(
                f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
                f'<text x="{_LABEL + width + 6:.1f}" y="{top + 12}" fill="currentColor">{escape(cell.text)}</text>'
            )
        y += len(line.cells) * (_BAR + 3) + _GAP
    columns = list(dict.fromkeys(cell.column for line in lines for cell in line.cells))
    parts.append(_legend(columns, y))
    title = escape(", ".join(columns))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y + 24}" role="img" aria-label="The table above as bars: {title}"'
        f' font-family="inherit" font-size="12">{"".join(parts)}</svg>'
    )


def _legend(columns: Sequence[str], y: int) -> str:
    parts, x = [], _LABEL
    for place, column in enumerate(columns):
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(f'<rect x="{x}" y="{y + 4}" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{y + 13}" fill="currentColor">{escape(column)}</text>')
        x += 30 + 7 * len(column)
    return "".join(parts)


def read(table: str) -> list[Line]:
    """The rows that hold two numbers or more of one unit."""
    rows = [[_plain(cell) for cell in row.strip("|").split("|")] for row in table.strip().splitlines()]
    if len(rows) < 3:
        return []
    head = rows[0]
    lines = [
        Line(
            label=row[0],
            cells=[cell for column, text in zip(head[1:], row[1:], strict=False) if (cell := _cell(column, text))],
        )
        for row in rows[2:]
    ]
    lines = [replace(line, cells=[cell for cell in line.cells if cell.unit == line.cells[0].unit]) for line in lines]
    return [line for line in lines if len(line.cells) > 1]


def _cell(column: str, text: str) -> Cell | None:
    found = _NUMBER.match(text)
    return (
        Cell(column=column, text=text, value=float(found[1].replace(",", "")), unit=found[2])
        if found and column
        else None
    )


def _plain(cell: str) -> str:
    return re.sub(r"\*\*|`|\[([^\]]*)\]\([^)]*\)", r"\1", cell).strip()
