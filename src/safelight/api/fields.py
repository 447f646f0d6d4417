"""Checks the fields of an image request: types, counts, sizes and ranges that hold for every provider."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target

MOST_FIELDS = 1000
MOST_FALLBACKS = 10
MOST_IMAGES = 16
MOST_PROMPT_CHARS = 131_072
MOST_MODEL_CHARS = 256

Check = Callable[[str, Any], Any]

_RATIO = re.compile(r"auto|[1-9][0-9]{0,3}(\.[0-9]{1,2})?:[1-9][0-9]{0,3}(\.[0-9]{1,2})?")
_SIZE = re.compile(rf"{_RATIO.pattern}|[1-9][0-9]{{1,4}}x[1-9][0-9]{{1,4}}|[124]K")
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 16_384
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_PROVIDER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _text(most_chars: int) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise InvalidRequest(f"{name} must be a string", param=name)
        if len(value) > most_chars:
            raise InvalidRequest(f"{name} must be at most {most_chars} characters long", param=name)
        if "\x00" in value:
            raise InvalidRequest(f"{name} must not hold NUL characters", param=name)
        return value

    return check


def _choice(*choices: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise InvalidRequest(f"{name} must be one of {', '.join(choices)}", param=name)
        return value

    return check


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON knows no difference between 1 and 1.0
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"{name} must be a whole number", param=name)
        if not low <= value <= high:
            raise InvalidRequest(f"{name} must be {low} to {high}", param=name)
        return value

    return check


def _size(name: str, value: Any) -> str:
    expected = f"{name} must be auto, WIDTHxHEIGHT in pixels such as 1024x1024, a ratio such as 16:9, or 1K, 2K, 4K"
    if not isinstance(value, str) or not _SIZE.fullmatch(value):
        raise InvalidRequest(expected, param=name)
    sides = [int(side) for side in value.split("x")] if "x" in value else []
    if any(not _SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in sides):
        raise InvalidRequest(f"{name}: each side must be {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels", param=name)
    return value


def _ratio(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _RATIO.fullmatch(value):
        raise InvalidRequest(f"{name} must be a ratio such as 16:9", param=name)
    return value


CHECKS: Mapping[str, Check] = {
    "n": _integer(1, 10),
    "size": _size,
    "quality": _text(64),
    "style": _text(64),
    "response_format": _choice("url", "b64_json"),
    "background": _choice("transparent", "opaque", "auto"),
    "moderation": _text(64),
    "output_format": _choice("png", "jpeg", "webp", "gif", "svg"),
    "output_compression": _integer(0, 100),
    "partial_images": _integer(0, 3),
    "seed": _integer(-(2**63), 2**63 - 1),
    "num_inference_steps": _integer(1, 1000),
    "negative_prompt": _text(MOST_PROMPT_CHARS),
    "aspect_ratio": _ratio,
    "resolution": _text(64),
    "user": _text(512),
    "input_fidelity": _choice("high", "low"),
    "type": _choice("inpainting", "outpainting", "background_removal"),
}
"""Optional fields with their checks. Which ones an operation knows stands with the operation."""

INTEGERS = frozenset({"n", "output_compression", "partial_images", "seed", "num_inference_steps"})

prompt_check = _text(MOST_PROMPT_CHARS)

# The contract's field `type` would hide the builtin and say little in the domain.
_DOMAIN_NAMES = {"type": "edit_type"}


def checked(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Check the named fields that are there; a null means absent. Raises `InvalidRequest` for the first fault."""
    return {
        _DOMAIN_NAMES.get(name, name): CHECKS[name](name, values[name])
        for name in names
        if values.get(name) is not None
    }


def whole_number(name: str, text: str) -> int:
    """Read an integer of a form (contract 5.3)."""
    if not _INTEGER.fullmatch(text.strip()):
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise InvalidRequest(f"invalid {name} value: {shown!r} is not a whole number", param=name)
    return int(text)


def target(value: Any, known_models: Callable[[str], ProviderName | None]) -> Target:
    """Read `provider/model`, or a bare model that a provider is known to offer (contract R5.1)."""
    if value is None or value == "":
        raise InvalidRequest("model is required", param="model")
    value = _text(MOST_MODEL_CHARS)("model", value)
    found = split_target(value)
    if found is not None:
        return found
    provider = known_models(value)
    if provider is None:
        raise InvalidRequest("model should be in provider/model format", param="model")
    return Target(provider=provider, model=value)


def split_target(value: str) -> Target | None:
    """Split `provider/model`; `None` when a part is missing."""
    provider, _, model = value.strip().partition("/")
    if not _PROVIDER.fullmatch(provider) or not model.strip() or not model.isprintable():
        return None
    return Target(provider=ProviderName(provider), model=model.strip())


def fallbacks(value: Any) -> tuple[Target, ...]:
    """Read the fallbacks: strings, or objects with provider and model. A malformed one is dropped (contract R5.2)."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("fallbacks must be strings provider/model, or objects with both", param="fallbacks")
    if len(value) > MOST_FALLBACKS:
        raise InvalidRequest(f"fallbacks must be at most {MOST_FALLBACKS}", param="fallbacks")
    found = [split_target(text) for text in map(_fallback_text, value)]
    return tuple(fallback for fallback in found if fallback is not None)


def _fallback_text(value: Any) -> str:
    check = _text(MOST_MODEL_CHARS)
    if isinstance(value, str):
        return str(check("fallbacks", value))
    if isinstance(value, dict) and isinstance(value.get("provider"), str) and isinstance(value.get("model"), str):
        return f"{check('fallbacks', value['provider'])}/{check('fallbacks', value['model'])}"
    raise InvalidRequest("fallbacks must be strings provider/model, or objects with both", param="fallbacks")


_MOST_LABELS = 64
_LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_LABEL_CHARS = 512


def labels(value: Any) -> dict[str, str]:
    """Read `metadata`: names with texts. Raises `InvalidRequest`."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MOST_LABELS:
        raise InvalidRequest(f"metadata must be an object of at most {_MOST_LABELS} texts", param="metadata")
    for name, text in value.items():
        if not _LABEL_NAME.fullmatch(name):
            raise InvalidRequest("metadata: names are 1 to 64 letters, digits, dots, dashes or lines", param="metadata")
        _text(_MOST_LABEL_CHARS)(f"metadata.{name}", text)
    return value


def idempotency_key(name: str, value: Any) -> str | None:
    """Read a caller's key. Raises `InvalidRequest`."""
    if value is None:
        return None
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise InvalidRequest(f"{name} must be 1 to 255 visible ASCII characters", param=name)
    return value


_KEY = re.compile(r"[\x21-\x7e]{1,255}")
