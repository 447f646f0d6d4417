"""Ranks of jobs in the queue of several processes: see `domain/fairness.py`.

No process remembers where each owner stands: it is read from the jobs that wait. The line is where the lowest rank is; an
owner stands as far behind it as their waiting jobs are long. So nobody waits for anybody else's row, and two submits of one
owner at the same moment get one rank: who came first goes first.
"""

from safelight.adapters.sql.database import Transaction
from safelight.domain.fairness import HANDICAP, STRIDE, Turn
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Priority

_SCALE = STRIDE // 10
_LARGEST = 2**31 - 1
"""PgQueuer's priority is a 32 bit integer."""
_MOST_COUNTED = 20_000
_RANK = """
UPDATE jobs SET rank = coalesce(
        (SELECT min(rank) FROM jobs AS others WHERE lane = $2 AND status = 'pending' AND rank IS NOT NULL), 0
    ) + $3 * (
        SELECT count(*) FROM (
            SELECT FROM jobs AS own
            WHERE own.owner = $4 AND own.status = 'pending' AND own.priority = $5 AND own.id <> $1 LIMIT $6
        ) AS counted
    )
WHERE id = $1 RETURNING rank
"""


async def priority(transaction: Transaction, job_id: JobId, lane: ProviderName, turn: Turn) -> int:
    """PgQueuer's number for a job that has just been written: a greater one is handed out first."""
    if turn.owner is None:
        return 0
    step = max(1, turn.stride // _SCALE)
    row = await transaction.fetch_one(_RANK, job_id, lane, step, turn.owner, turn.priority.value, _MOST_COUNTED)
    rank = row[0] if row else 0
    return -min(_LARGEST, rank + (HANDICAP // _SCALE if turn.priority is Priority.BULK else 0))
