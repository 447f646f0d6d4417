"""Encrypts the secrets that the record holds: AES-256-GCM, under keys of the settings."""

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safelight.domain.errors import StorageError

_VERSION = b"\x01"
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 4, 12, 32
_HEAD_BYTES = len(_VERSION) + _ID_BYTES


class AesGcmBox:
    """See `SecretBox`. A sealed secret is: version, the key's id, nonce, ciphertext with its tag."""

    def __init__(self, keys: Sequence[str]) -> None:
        """The first of the keys encrypts, all of them decrypt. They are texts of any length; see `domain/strength.py`."""
        self._ciphers = {_head(key): AESGCM(_derived(key, b"safelight secret box", _KEY_BYTES)) for key in keys}
        self._newest = _head(keys[0])

    def __repr__(self) -> str:
        """Show how many keys there are, and none of them."""
        return f"AesGcmBox({len(self._ciphers)} keys)"

    def seal(self, secret: str) -> bytes:
        """See `SecretBox.seal`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self._newest + nonce + self._ciphers[self._newest].encrypt(nonce, secret.encode(), self._newest)

    def open(self, sealed: bytes) -> str:
        """See `SecretBox.open`."""
        head, rest = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        cipher = self._ciphers.get(head)
        if cipher is None:
            raise StorageError(
                "a stored secret was encrypted with a key that auth.encryption_key does not name (any more)"
            )
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], head).decode()
        except InvalidTag as error:
            raise StorageError("a stored secret has been tampered with") from error

    def is_newest(self, sealed: bytes) -> bool:
        """Whether it is encrypted with the first key, so that the others are not needed for it."""
        return sealed.startswith(self._newest)


def _head(key: str) -> bytes:
    return _VERSION + hashlib.sha256(_derived(key, b"safelight key id", _KEY_BYTES)).digest()[:_ID_BYTES]


def _derived(key: str, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key.encode())
