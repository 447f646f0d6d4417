"""What a virtual key allows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from safelight.domain.access import ProviderRule, VirtualKey, allows_key
from safelight.domain.errors import AccessBlocked, ModelBlocked, ProviderBlocked
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from tests.making import request

NOW = datetime(2026, 11, 25, tzinfo=UTC)
KEY = VirtualKey(id="k", name="a")


def target(text: str) -> Target:
    provider, _, model = text.partition("/")
    return Target(provider=ProviderName(provider), model=model)


def listing(*rules: ProviderRule) -> VirtualKey:
    return replace(KEY, providers=rules)


OPENAI = ProviderRule(provider="openai", models=("gpt-image-*",), keys=("main", "spare-*"))


def test_a_key_of_which_nothing_is_said_allows_everything() -> None:
    KEY.refuse_unlisted(request(target("openai/gpt-image-2"), fallbacks=(target("fal/flux"),), key_name="main"))
    assert KEY.provider_key_limits(request(target("openai/gpt-image-2"))) == {}


@pytest.mark.parametrize(
    ("rules", "asked", "fault"),
    [
        ((), "openai/gpt-image-2", ProviderBlocked),
        ((ProviderRule(models=()),), "openai/gpt-image-2", ModelBlocked),
        ((ProviderRule(keys=()),), "openai/gpt-image-2", ProviderBlocked),
        ((OPENAI,), "fal/flux", ProviderBlocked),
        ((OPENAI,), "openai/dall-e-3", ModelBlocked),
        ((OPENAI,), "OpenAI/gpt-image-2", ProviderBlocked),
    ],
)
def test_what_is_not_listed_is_refused(rules: tuple[ProviderRule, ...], asked: str, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        listing(*rules).refuse_unlisted(request(target(asked)))


def test_fallbacks_count_like_the_target() -> None:
    with pytest.raises(ModelBlocked, match="openai/dall-e-3"):
        listing(OPENAI).refuse_unlisted(request(target("openai/gpt-image-2"), fallbacks=(target("openai/dall-e-3"),)))


def test_provider_keys_are_limited_too() -> None:
    key = listing(OPENAI)
    asked = request(target("openai/gpt-image-2"))
    key.refuse_unlisted(structs.replace(asked, key_name="spare-2"))
    with pytest.raises(ProviderBlocked):
        key.refuse_unlisted(structs.replace(asked, key_name="other"))
    assert key.provider_key_limits(asked) == {"openai/gpt-image-2": ("main", "spare-*")}
    assert allows_key(("main", "spare-*"), "spare-2")
    assert not allows_key(("main",), None)
    assert allows_key(("*",), None)


def test_an_inactive_or_expired_key_is_of_no_use() -> None:
    KEY.refuse_unusable(NOW)
    replace(KEY, expires_at=NOW + timedelta(seconds=1)).refuse_unusable(NOW)
    for unusable in (replace(KEY, active=False), replace(KEY, expires_at=NOW)):
        with pytest.raises(AccessBlocked):
            unusable.refuse_unusable(NOW)
