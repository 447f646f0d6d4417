"""What a caller asks for and what comes out: one shape for every provider."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from safelight.domain.ids import BlobKey, ProviderName

_LARGE_SEED = 2**30
_PIXEL_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")


class Operation(StrEnum):
    """The contract's request types."""

    GENERATION = "image_generation"
    EDIT = "image_edit"
    VARIATION = "image_variation"


class ResponseFormat(StrEnum):
    """How the caller wants to receive an image."""

    URL = "url"
    B64_JSON = "b64_json"


class Dimensions(Struct, frozen=True, kw_only=True):
    """A size in pixels, width before height."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def __str__(self) -> str:
        """The wire spelling, such as `1536x1024`."""
        return f"{self.width}x{self.height}"


class Target(Struct, frozen=True, kw_only=True):
    """A model at a provider, `provider/model` on the wire."""

    provider: ProviderName
    model: str

    def __str__(self) -> str:
        """The wire spelling."""
        return f"{self.provider}/{self.model}"


class StoredImage(Struct, frozen=True, kw_only=True):
    """An image in the blob store, its type and size read from its own bytes."""

    blob: BlobKey
    content_type: str
    size_bytes: int
    sha256: str
    dimensions: Dimensions


class InputImage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image that the caller sent. `filename` is for display only."""

    image: StoredImage
    filename: str = ""


class OutputImage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture of a result."""

    image: StoredImage
    revised_prompt: str | None = None


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens as the provider counted them."""

    input_tokens: int | None = None
    input_tokens_details: Mapping[str, int] | None = None
    output_tokens: int | None = None
    output_tokens_details: Mapping[str, int] | None = None
    total_tokens: int | None = None


class ImageRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One checked request. `None` means that the caller said nothing of it."""

    operation: Operation
    target: Target
    fallbacks: tuple[Target, ...] = ()
    prompt: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    response_format: ResponseFormat | None = None
    background: str | None = None
    moderation: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    partial_images: int | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    negative_prompt: str | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    user: str | None = None
    input_fidelity: str | None = None
    edit_type: str | None = None
    images: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    extra: Mapping[str, Any] = {}
    """Parameters that the gateway does not know, to be passed on untouched."""
    extra_headers: Mapping[str, str] = {}
    """Headers for the provider (`x-bf-eh-<name>` on the wire)."""
    key_name: str | None = None
    """The provider key that the caller named (`x-bf-api-key`)."""

    def further(self, offset: int) -> "ImageRequest":
        """The same request for pictures behind the first `offset`: the same seed again would bring the same ones.

        A large seed goes down instead of up, so that it stays below whatever is a provider's largest; a negative one
        stands for chance.
        """
        if self.seed is None or self.seed < 0:
            return self
        return replace(self, seed=self.seed - offset if self.seed >= _LARGE_SEED else self.seed + offset)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where to try, in order."""
        return (self.target, *self.fallbacks)

    @property
    def inputs(self) -> tuple[InputImage, ...]:
        """All images that the caller sent."""
        return (*self.images, self.mask) if self.mask else self.images

    @property
    def count(self) -> int:
        """How many pictures are wanted."""
        return self.n or 1

    @property
    def pixel_size(self) -> Dimensions | None:
        """The asked size in pixels; `None` for `auto`, a ratio, a tier or nothing."""
        found = _PIXEL_SIZE.fullmatch(self.size or "")
        return Dimensions(width=int(found[1]), height=int(found[2])) if found else None
