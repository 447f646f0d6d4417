"""Keys that could be guessed."""

import secrets

import pytest

from safelight.domain.strength import weakness


@pytest.mark.parametrize(
    "key",
    [
        "admin",
        "changeme-changeme-changeme",
        "your-admin-key-goes-here",
        "example-admin-key-for-safelight",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "abababababababababababababababab",
        "password1234567890",
        "0123456789",
        "",
    ],
)
def test_weak_and_sample_keys_are_refused(key: str) -> None:
    assert "easily guessed" in (weakness(key) or "")


def test_random_keys_and_long_phrases_are_taken() -> None:
    for key in ("correct horse battery staple", secrets.token_urlsafe(32), secrets.token_hex(16)):
        assert weakness(key) is None
