"""Keys that could be guessed, or that stand in every example."""

import re

_LEAST_CHARS = 16
_LEAST_DIFFERENT = 8
_SAMPLE_WORDS = re.compile(
    r"change.?me|replace.?me|your|example|sample|placeholder|default|password|passwd|secret|admin|token|test|demo|dummy|"
    r"safelight|qwerty|letmein|abcdefgh|12345678|00000000|11111111|key",
    re.IGNORECASE,
)


def weakness(key: str) -> str | None:
    """Why a key is too easily guessed, `None` when it is not: what is left without the usual words must be long."""
    own = _SAMPLE_WORDS.sub("", key)
    if len(own) < _LEAST_CHARS or len(set(own)) < _LEAST_DIFFERENT:
        return (
            f"is too easily guessed: take at least {_LEAST_CHARS} random characters, "
            'for example those of `python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    return None
