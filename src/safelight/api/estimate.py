"""What a request is likely to cost."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import fields
from safelight.api.errors import json_response
from safelight.api.services import services_of
from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import BlobKey, ProviderName
from safelight.domain.image import Dimensions, ImageRequest, InputImage, Operation, StoredImage
from safelight.domain.money import MICROS_PER_UNIT

_FIELDS = ("n", "size", "quality", "resolution", "aspect_ratio")
_ANY_INPUT = InputImage(
    image=StoredImage(
        blob=BlobKey(""), content_type="image/png", size_bytes=0, sha256="", dimensions=Dimensions(width=0, height=0)
    )
)
"""Stands for a picture that is to be sent: its number alone counts."""


def estimate_routes() -> list[Route]:
    """`/v1/estimate`."""
    route = Route("/v1/estimate", _estimate, methods=["GET"])
    route.methods = {"GET"}
    return [route]


async def _estimate(request: Request) -> Response:
    services, query = services_of(request), request.query_params

    def known_provider(model: str) -> ProviderName | None:
        return next((name for name, provider in services.providers.items() if provider.spec(model)), None)

    asked: dict[str, object] = {name: query[name] for name in _FIELDS if query.get(name)}
    if "n" in asked:
        asked["n"] = fields.whole_number("n", query["n"])
    wanted = ImageRequest(
        operation=_operation(query.get("operation", Operation.GENERATION)),
        target=fields.target(query.get("model"), known_provider),
        images=(_ANY_INPUT,) * _inputs(query.get("input_images", "0")),
        **fields.checked(asked, _FIELDS),
    )
    micros = services.estimate.micros(wanted)
    return json_response(
        {
            "object": "estimate",
            "model": str(wanted.target),
            "cost_usd": None if micros is None else micros / MICROS_PER_UNIT,
        }
    )


def _operation(word: str) -> Operation:
    try:
        return Operation(word)
    except ValueError as error:
        raise InvalidRequest(f"operation must be one of {', '.join(Operation)}", param="operation") from error


def _inputs(text: str) -> int:
    count = fields.whole_number("input_images", text)
    if not 0 <= count <= fields.MOST_IMAGES:
        raise InvalidRequest(f"input_images must be 0 to {fields.MOST_IMAGES}", param="input_images")
    return count
