"""The worked example of docs/governance.md, held to the ledger's own rules."""

import re
from collections import Counter
from pathlib import Path

from safelight.domain.ledger import Account, hold, settle

PAGE = Path(__file__).parents[2] / "docs" / "governance.md"
LIMIT = 100_000
COSTS = [("hold", 40_000), ("settle", 40_000), ("hold", 20_000), ("settle", 0), ("refused", 80_000)]
"""What each line after the first does: two pictures, both came; one more, which could not be had; four at once."""


def rows() -> list[tuple[int, int, int]]:
    """Held, spent and left of each line, in micro-dollars."""
    table = PAGE.read_text(encoding="utf-8").partition("| after | held | spent |")[2].partition("\n\n")[0]
    lines = [re.findall(r"\$(\d+\.\d+)", line)[-3:] for line in table.splitlines()[2:]]
    return [(round(float(a) * 1e6), round(float(b) * 1e6), round(float(c) * 1e6)) for a, b, c in lines]


def test_the_page_counts_as_the_ledger_does() -> None:
    accounts = Counter[Account]()
    told = [(0, 0, LIMIT)]
    held = 0
    for action, amount in COSTS:
        left = LIMIT - accounts[Account.HELD] - accounts[Account.SPENT]
        if action == "refused":
            assert amount > left
        else:
            moves = hold(amount) if action == "hold" else settle(held, amount)
            held = amount if action == "hold" else 0
            for move in moves:
                accounts[move.debit] -= move.amount
                accounts[move.credit] += move.amount
        assert accounts.total() == 0
        spent = accounts[Account.SPENT]
        told.append((accounts[Account.HELD], spent, LIMIT - accounts[Account.HELD] - spent))
    assert rows() == told
