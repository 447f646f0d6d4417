"""Buckets: what is tried again, links straight to the store, and URLs."""

import base64
import json
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import S3Store

from safelight.adapters.blobs import cloud
from safelight.adapters.blobs.cloud import CloudBlobStore, open_cloud
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.config import StorageSettings
from safelight.domain.errors import ConfigurationError, StorageError
from safelight.domain.ids import BlobKey, blob_key
from safelight.storage.images import open_blobs
from tests.doubles import png, read_all
from tests.making import NOON, new_id
from tests.s3 import S3

KEY = blob_key(NOON, new_id(), "a")


def bucket(s3: S3, *, signs: bool = True) -> CloudBlobStore:
    return open_cloud(s3.url, s3.options, signs=signs)


async def put(store: CloudBlobStore, content: bytes, *, patient: bool = False, key: BlobKey = KEY) -> None:
    writer = store.writer(key, patient=patient)
    await writer.write(content)
    await writer.close()


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("size", [10, 6 * 1024 * 1024])
async def test_a_store_that_fails_for_a_moment_is_asked_again(s3: S3, status: int, size: int) -> None:
    store = bucket(s3)
    s3.faults = [status, status]
    await put(store, b"x" * size)
    s3.faults = [status]
    assert await read_all(store.read(KEY)) == b"x" * size
    s3.faults = [status]
    await store.delete([KEY])


async def test_only_what_is_paid_for_is_tried_for_long(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2}
    monkeypatch.setattr(cloud, "_BACKOFF", fast)
    store = bucket(s3)
    s3.faults = [503] * 20
    with pytest.raises(StorageError):
        await put(store, b"x")
    assert len(s3.requests) == 5
    s3.faults = [503] * 20
    await put(store, b"x", patient=True)
    assert await read_all(store.read(KEY)) == b"x"


async def test_a_store_that_does_not_answer_is_given_up(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "_ANSWER_TIMEOUT", timedelta(seconds=0.2))
    monkeypatch.setattr(cloud, "_BRISK", {"max_retries": 1, "retry_timeout": timedelta(seconds=1)})
    s3.delay_s = 5
    with pytest.raises(StorageError):
        await put(bucket(s3), b"x")


async def test_whoever_has_a_link_fetches_the_picture_from_the_store(s3: S3) -> None:
    store, content = bucket(s3), png()
    await put(store, content)
    link = await store.link(KEY, lifetime_s=60)
    assert link is not None
    assert link.startswith(f"{s3.endpoint}/pictures/gateway/")
    assert "X-Amz-Expires=60" in link
    assert "secret" not in link
    async with aiohttp.ClientSession() as session, session.get(link) as answer:
        assert await answer.read() == content
        assert answer.content_type == "image/png"


async def test_no_link_where_clients_cannot_reach_the_store(s3: S3, tmp_path: Path) -> None:
    assert await bucket(s3, signs=False).link(KEY, lifetime_s=60) is None
    local = LocalBlobStore(tmp_path)
    assert await local.link(KEY, lifetime_s=60) is None
    await local.close()


async def test_azure_and_google_sign_too(tmp_path: Path) -> None:
    account = {"account_name": "pictures", "account_key": base64.b64encode(b"k" * 32).decode()}
    link = await open_cloud("az://container/prefix", account, signs=True).link(KEY, lifetime_s=60)
    assert link is not None
    assert link.startswith("https://pictures.blob.core.windows.net/container/prefix/")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    robot = {
        "type": "service_account",
        "client_email": "robot@example.test",
        "private_key": private.decode(),
        "private_key_id": "1",
        "token_uri": "https://example.test/token",
    }
    file = tmp_path / "robot.json"
    file.write_text(json.dumps(robot))
    link = await open_cloud("gs://bucket/prefix", {"service_account": str(file)}, signs=True).link(KEY, lifetime_s=60)
    assert link is not None
    assert link.startswith("https://storage.googleapis.com/bucket/prefix/")


def test_the_url_says_where_the_images_are(s3: S3) -> None:
    opened = open_blobs(StorageSettings(blob_url=s3.url, blob_options=s3.options))
    assert isinstance(opened, CloudBlobStore)
    assert isinstance(opened._store, S3Store)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_a_folder_may_be_named_as_well(tmp_path: Path, form: str) -> None:
    opened = open_blobs(StorageSettings(blob_url=form.format(tmp_path / "pictures")))
    assert isinstance(opened, LocalBlobStore)
    assert (tmp_path / "pictures").is_dir()
    await opened.close()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("ftp://host/x", {}, "none of s3://"),
        ("s3://", {}, "cannot be used"),
        ("s3://bucket", {"colour": "red"}, "colour"),
    ],
)
def test_a_url_that_cannot_be_used_says_so(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_blobs(StorageSettings(blob_url=url, blob_options=options))
