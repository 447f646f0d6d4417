"""Plain columns: the same in a terminal and in a pipe, and nothing is ever cut off."""

from collections.abc import Sequence
from datetime import datetime

_GAP = "  "


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Align rows of cells."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def moment(text: str | None) -> str:
    """A time of the wire for people, in UTC."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%SZ") if text else "-"


def size(size_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"
