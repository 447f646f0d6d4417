"""No secret is in anything that a gateway writes: database, images, logs, answers."""

import json
from pathlib import Path

from tests.acceptance.gateway import Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

ADMIN = "9b1f-correct-horse-battery"
VIRTUAL = "sk-bf-4c1e9a70d2b8f653"
PROVIDER, ADDED = "sk-upstream-3f9a1c77e5", "sk-upstream-8e2b4d60aa"
ENCRYPTION = "77aa-staple-of-the-usual-kind"
SECRETS = [ADMIN, VIRTUAL, PROVIDER, ADDED, ENCRYPTION]


async def test_nothing_that_is_written_holds_a_secret(tmp_path: Path) -> None:
    async with OpenAICompatibleSimulator() as box:
        entry = upstream(box.base_url, repeatable=False, keys=[{"name": "main", "value": PROVIDER}])
        async with running(
            tmp_path,
            auth={"admin_key": ADMIN, "encryption_key": ENCRYPTION},
            providers={"box": entry, "builtin": {"retries": {"max": 0}}},
            log={"level": "debug"},
            virtual_keys=[{"name": "a", "value": VIRTUAL, "budgets": [{"limit_usd": 9, "period": "1d"}]}],
            prices={"box/flux": {"per_image_usd": "0.02"}},
        ) as gateway:
            told = await everything(gateway, box)
            written = content_of(tmp_path)
    for secret in told:
        assert secret.encode() not in written, secret


def content_of(folder: Path) -> bytes:
    """All files but the settings, which hold secrets."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml")


async def everything(gateway: Gateway, box: OpenAICompatibleSimulator) -> list[str]:
    """Use every secret, well and badly; gives them all, with those that were made meanwhile."""
    admin, key = {"Authorization": f"Bearer {ADMIN}"}, {"x-bf-vk": VIRTUAL}
    answers: list[str] = []

    async def ask(method: str, path: str, headers: dict[str, str], body: object = None) -> dict[str, object]:
        async with gateway.session.request(method, f"{gateway.url}{path}", json=body, headers=headers) as reply:
            answers.append(await reply.text() + str(reply.headers))
            return json.loads(answers[-1].partition("<CIMulti")[0]) if reply.status in {200, 201} else {}

    await ask("PUT", "/api/providers/box/keys/added", admin, {"value": ADDED})
    made = [str((await ask("POST", "/api/virtual-keys", admin, {"name": "b"}))["key"])]
    endpoint = {"name": "shop", "url": "https://shop.example/hook", "events": ["async_job.failed"]}
    made.append(str((await ask("POST", "/api/webhooks", admin, endpoint))["secret"]))
    shown_once = answers[1:3]
    answers.clear()
    box.faults.push(Fault(status=401))
    for headers in (key, {**key, "x-bf-async-webhook": "shop"}, {"x-bf-vk": VIRTUAL + "x"}, {"x-bf-vk": made[0]}):
        for model in ("box/flux", "builtin/fail-auth"):
            body = {"model": model, "prompt": "a fox", "size": "64x64"}
            await ask("POST", "/v1/images/generations", headers, body)
    for path in ("virtual-keys", "providers", "providers/box/keys", "audit-log", "usage", "queue", "webhooks"):
        await ask("GET", f"/api/{path}", admin)
        await ask("GET", f"/api/{path}", {"Authorization": f"Bearer {ADMIN}x"})
    await ask("GET", "/v1/async/jobs?limit=100", key)
    assert all(secret in "".join(shown_once) for secret in made)
    for secret in [*SECRETS, *made]:
        assert secret not in "".join(answers), secret
    return [*SECRETS, *made]
