"""What the simulators of services with many models share: the schema of a model's input, checked strictly."""

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one input may hold. `kind` "picture" is a link or a data URL, "pictures" a list, "mask" a grey picture."""

    kind: str = "str"
    choices: tuple[Any, ...] = ()
    smallest: int | None = None
    largest: int | None = None
    most: int | None = None
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class InputFault(Exception):
    """Why an input is refused."""

    name: str
    message: str
    type: str


KINDS: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "number": (int, float),
    "bool": bool,
    "picture": str,
    "mask": str,
    "pictures": list,
    "size": (str, dict),
}


def check_inputs(inputs: Mapping[str, Any], rules: Mapping[str, Rule], *, lenient: bool = False) -> None:
    """Raise `InputFault` for what a model does not know (unless `lenient`), misses, or takes otherwise."""
    for name, rule in rules.items():
        if rule.required and name not in inputs:
            raise InputFault(name=name, message=f"{name} is required", type="missing")
    for name, value in inputs.items():
        if name in rules:
            _check(name, value, rules[name])
        elif not lenient:
            raise InputFault(name=name, message=f"Additional property {name} is not allowed", type="extra_forbidden")


def _check(name: str, value: Any, rule: Rule) -> None:
    kind = KINDS[rule.kind]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputFault(name=name, message=f"Invalid type. Expected: {rule.kind}", type="type_error")
    if rule.choices and value not in rule.choices:
        raise InputFault(name=name, message=f"must be one of {rule.choices}", type="literal_error")
    if isinstance(value, int | float) and not _within(value, rule):
        raise InputFault(name=name, message="out of range", type="out_of_range")
    if rule.most is not None and isinstance(value, list) and not 1 <= len(value) <= rule.most:
        raise InputFault(name=name, message=f"takes 1 to {rule.most} items", type="too_long")


def _within(value: float, rule: Rule) -> bool:
    return (rule.smallest is None or value >= rule.smallest) and (rule.largest is None or value <= rule.largest)


def opened(content: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP", "GIF"])
        image.load()
    except (UnidentifiedImageError, OSError) as cause:
        raise InputFault(name=name, message="cannot identify image file", type="image_load_error") from cause
    return image


def from_data_url(link: str, name: str) -> bytes | None:
    """The bytes of a data URL; `None` for any other link."""
    found = DATA_URL.match(link)
    if found is None:
        return None
    try:
        return base64.b64decode(link[found.end() :], validate=True)
    except binascii.Error as cause:
        raise InputFault(name=name, message="the data URL is not base64", type="file_download_error") from cause


def check_mask(mask: Image.Image, first: Image.Image, name: str) -> None:
    if mask.mode != "L" or mask.size != first.size:
        raise InputFault(name=name, message="the mask must be grey and as large as the image", type="image_load_error")


def sides(ratio: str, *, short: int = 96) -> tuple[int, int]:
    """A small size of a ratio: `16:9` and so on; square for anything else."""
    width, _, height = ratio.partition(":")
    if not (width.isdigit() and height.isdigit()):
        return short, short
    scale = short / min(int(width), int(height))
    return round(int(width) * scale), round(int(height) * scale)
