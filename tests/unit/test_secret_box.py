"""Secrets at rest."""

import pytest

from safelight.adapters.secret_box import AesGcmBox
from safelight.domain.errors import StorageError

OLD, NEW = "an-old-key-of-the-operator", "the-next-key-of-the-operator"


def test_what_is_sealed_can_be_opened_and_cannot_be_read() -> None:
    box = AesGcmBox([OLD])

    sealed = box.seal("whsec_c2VjcmV0")

    assert b"c2VjcmV0" not in sealed
    assert box.open(sealed) == "whsec_c2VjcmV0"
    assert box.seal("whsec_c2VjcmV0") != sealed


def test_keys_change_one_after_another() -> None:
    sealed = AesGcmBox([OLD]).seal("sk-upstream")
    both = AesGcmBox([NEW, OLD])

    assert both.open(sealed) == "sk-upstream"
    assert not both.is_newest(sealed)
    assert AesGcmBox([NEW]).open(both.seal("sk-upstream")) == "sk-upstream"


def test_without_its_key_a_secret_stays_shut() -> None:
    with pytest.raises(StorageError, match=r"auth\.encryption_key"):
        AesGcmBox([NEW]).open(AesGcmBox([OLD]).seal("sk-upstream"))


@pytest.mark.parametrize("at", [5, 16, 17, -1])
def test_tampering_is_noticed(at: int) -> None:
    box = AesGcmBox([OLD])
    sealed = bytearray(box.seal("sk-upstream"))
    sealed[at] ^= 1

    with pytest.raises(StorageError, match="tampered"):
        box.open(bytes(sealed))


def test_a_box_shows_no_key() -> None:
    assert OLD not in repr(AesGcmBox([OLD]))
