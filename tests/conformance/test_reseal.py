"""Stored secrets come under the newest key, so that a former one can be taken out."""

from datetime import UTC, datetime

from safelight.adapters.secret_box import AesGcmBox
from safelight.adapters.sql.overrides import SqlOverrideStore
from safelight.adapters.sql.reseal import reseal
from safelight.application.access_ports import Change
from safelight.application.overrides import StoredKey
from tests.stores import Storage

OLD, NEW = "an-old-key-of-the-operator", "the-next-key-of-the-operator"
AT = datetime(2026, 11, 25, tzinfo=UTC)


async def test_after_a_start_with_both_keys_the_former_is_not_needed(storage: Storage) -> None:
    jobs, database = await storage.open(), await storage.open_database()
    try:
        await jobs.fact("hash", AesGcmBox([OLD]).seal("of the hash"))
        key = StoredKey(
            provider="box", name="a", models=("*",), weight=1, concurrency=None, created_at=AT, updated_at=AT
        )
        change = Change(at=AT, actor="test", action="saved", subject="provider_key", subject_id="box/a")
        await SqlOverrideStore(database, AesGcmBox([OLD])).put_key(key, "sk-upstream", change)

        assert await reseal(database, AesGcmBox([NEW, OLD]), facts=("hash",)) == 2
        assert await reseal(database, AesGcmBox([NEW, OLD]), facts=("hash",)) == 0

        assert (await SqlOverrideStore(database, AesGcmBox([NEW])).keys())[0][1] == "sk-upstream"
        assert AesGcmBox([NEW]).open(await jobs.fact("hash", b"")) == "of the hash"
    finally:
        await jobs.close()
        await database.close()
