"""What makes two requests the same one."""

import hashlib
import json

import msgspec

from safelight.domain.image import ImageRequest, InputImage


def fingerprint(request: ImageRequest) -> str:
    """Equal for requests that ask for the same: same members, and the same bytes in their images, however named.

    What is empty is left out, so that a member that a later release adds changes no fingerprint of before.
    """
    said = msgspec.to_builtins(request)
    said["images"] = [_image(each) for each in request.images]
    said["mask"] = _image(request.mask) if request.mask else None
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _image(sent: InputImage) -> str:
    return sent.image.sha256
