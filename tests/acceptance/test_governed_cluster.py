"""Two API processes on one Postgres: a budget and a limit are one, whichever process is asked."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster, cluster
from tests.acceptance.gateway import upstream
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

KEY, LIMITED = "sk-bf-of-the-first-team", "sk-bf-of-the-second-team"

pytestmark = pytest.mark.timeout(120)


async def statuses(made: Cluster, key: str, count: int) -> Counter[int]:
    """Submit to both processes in turn, all at once."""
    nodes = [made.node("one"), made.node("two")]

    async def submit(at: int) -> int:
        headers, path = {"x-bf-vk": key}, "/v1/async/images/generations"
        answer = await nodes[at % 2].post(path, headers=headers, model="box/flux", prompt="a fox")
        return answer[0]

    return Counter(await asyncio.gather(*[submit(at) for at in range(count)]))


async def test_two_hundred_at_once_find_room_for_ten_in_two_processes(tmp_path: Path, database_url: str) -> None:
    keys: Any = [
        {"name": "a", "value": KEY, "budgets": [{"limit_usd": "0.2", "period": "1h"}]},
        {"name": "b", "value": LIMITED, "limits": {"requests": {"max": 7, "period": "1h"}, "waiting": 100}},
    ]
    async with (
        OpenAICompatibleSimulator() as box,
        cluster(
            tmp_path,
            database_url,
            roles={"one": "all", "two": "all"},
            providers={"box": upstream(box.base_url, repeatable=False)},
            prices={"box/flux": {"per_image_usd": "0.02"}},
            virtual_keys=keys,
        ) as made,
    ):
        assert await statuses(made, KEY, 200) == {202: 10, 402: 190}
        assert await statuses(made, LIMITED, 60) == {202: 7, 429: 53}
        await made.settled()
        assert await made.rows("SELECT count(*) FROM holds") == [(0,)]
        spent = "SELECT CAST(sum(amount) AS BIGINT) FROM ledger WHERE credit = 'spent'"
        assert await made.rows(spent) == [(200_000,)]
