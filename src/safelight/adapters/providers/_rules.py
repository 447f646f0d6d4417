"""Limits on combinations of fields that several models share; a `ModelSpec` lists those that hold for it."""

from safelight.domain.errors import UnsupportedFeature
from safelight.domain.image import ImageRequest, Operation

_COMPRESSED = frozenset({"jpeg", "webp"})


def transparency_needs_alpha(request: ImageRequest) -> UnsupportedFeature | None:
    """JPEG has no transparency."""
    if request.background == "transparent" and request.output_format == "jpeg":
        return UnsupportedFeature("a transparent background needs output_format png or webp", param="background")
    return None


def compression_needs_lossy_format(request: ImageRequest) -> UnsupportedFeature | None:
    """`output_compression` says something about JPEG and WebP alone."""
    if request.output_compression is not None and request.output_format not in _COMPRESSED:
        return UnsupportedFeature("output_compression needs output_format jpeg or webp", param="output_compression")
    return None


def edits_inpaint(request: ImageRequest) -> UnsupportedFeature | None:
    """Of the contract's kinds of edit, the one that a mask or a prompt expresses."""
    if request.edit_type not in {None, "inpainting"}:
        return UnsupportedFeature(f"this model has no edit of type {request.edit_type!r}", param="type")
    return None


def edits_need_prompt(request: ImageRequest) -> UnsupportedFeature | None:
    """Ask for the prompt of an edit, which the contract leaves open and most models do not."""
    if request.operation is Operation.EDIT and not request.prompt:
        return UnsupportedFeature("this model needs a prompt to edit", param="prompt")
    return None
