"""The wire shape that OpenAI's image API has given to many servers: fields, forms, and answers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._body import Body, HeldPart, Part, form_body
from safelight.application.ports import Call, Finished, RemotePicture, StoredPicture
from safelight.domain.errors import ProviderProtocolError
from safelight.domain.image import ImageRequest, Operation, Usage

VARIATION_PROMPT = "A new variation of this image: same subject and style."
"""What stands in for the variation call that hardly any provider still has."""


class _Item(msgspec.Struct):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: Any = None


class _Images(msgspec.Struct):
    """Only what we cannot do without is typed: a paid picture is not thrown away for an odd word beside it."""

    data: list[_Item] | None = None
    created: Any = None
    model: Any = None
    usage: Any = None
    background: Any = None
    output_format: Any = None
    quality: Any = None
    size: Any = None


def given(request: ImageRequest, names: Iterable[str]) -> dict[str, Any]:
    """Take the fields that the caller filled."""
    return {name: value for name in names if (value := getattr(request, name)) is not None}


def edit_form(
    call: Call,
    fields: Mapping[str, Any],
    *,
    one: str = "image",
    many: str = "image[]",
    mask: HeldPart | None = None,
) -> Body:
    """Make the form of an edit: part `one` for one picture, parts `many` for several, and the mask.

    The mask goes as the caller sent it, as `mask`, unless a converted one is given.
    """
    return form_body(form_fields(fields), _parts(call.request, one, many, mask), call.workspace)


def prompt_of(request: ImageRequest) -> str | None:
    """Take the caller's prompt, or the neutral one of a variation."""
    if request.operation is Operation.VARIATION:
        return request.prompt or VARIATION_PROMPT
    return request.prompt


def via_of(request: ImageRequest) -> str | None:
    """Say for `meta.via` that a variation is done as an edit."""
    return "edit" if request.operation is Operation.VARIATION else None


def form_fields(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Write fields as a form's texts."""
    for name, value in fields.items():
        yield from _form_field(name, value)


def _form_field(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Numbers and booleans as text, nested values with bracketed names."""
    match value:
        case str():
            yield name, value
        case bool():
            yield name, "true" if value else "false"
        case Mapping():
            for key, inner in value.items():
                yield from _form_field(f"{name}[{key}]", inner)
        case list() | tuple():
            for inner in value:
                yield from _form_field(f"{name}[]", inner)
        case None:
            pass
        case _:
            yield name, str(value)


def _parts(request: ImageRequest, one: str, many: str, mask: HeldPart | None) -> Iterator[Part | HeldPart]:
    name = one if len(request.images) == 1 else many
    for number, image in enumerate(request.images, start=1):
        yield Part.of(name, image.image, f"image-{number}")
    if mask is not None:
        yield mask
    elif request.mask is not None:
        yield Part.of("mask", request.mask.image, "mask")


async def finished(answer: Answer, *, base_url: URL, via: str | None = None, prompt: str | None = None) -> Finished:
    """Read an answer; raises `ProviderProtocolError` when no picture can be had from it.

    A revised prompt that is `prompt` itself was not revised, and is left out.
    """
    images = answer.read(_Images)
    return Finished(
        pictures=await _pictures(answer, images.data or [], base_url, prompt),
        model=answer.words(images.model),
        created=int(images.created) if isinstance(images.created, int | float) else None,
        usage=usage_of(images.usage),
        background=answer.words(images.background),
        output_format=answer.words(images.output_format),
        quality=answer.words(images.quality),
        size=answer.words(images.size),
        via=via,
    )


async def _pictures(
    answer: Answer, items: list[_Item], base_url: URL, prompt: str | None
) -> tuple[StoredPicture | RemotePicture, ...]:
    """Take the pictures that can be read; raises `ProviderProtocolError` if there is none."""
    pictures = []
    fault = None
    for item in items:
        try:
            pictures.append(await _picture(answer, item, base_url, prompt))
        except ProviderProtocolError as exc:
            fault = exc
    if not pictures:
        raise fault or answer.unreadable(f"the provider answered HTTP {answer.status} without a picture")
    return tuple(pictures)


async def _picture(answer: Answer, item: _Item, base_url: URL, prompt: str | None) -> StoredPicture | RemotePicture:
    said = answer.words(item.revised_prompt)
    revised_prompt = None if said == prompt else said
    if item.b64_json:
        return await answer.picture(item.b64_json, revised_prompt=revised_prompt)
    if not item.url:
        raise answer.unreadable("the provider sent an item without a picture")
    if item.url in answer.lifted or item.url.startswith("data:"):
        return await answer.picture(item.url, revised_prompt=revised_prompt)
    return _remote(item.url, revised_prompt, base_url)


def _remote(url: str, revised_prompt: str | None, base_url: URL) -> RemotePicture:
    """Take a link; relative ones belong to the server, and on its own host the server is trusted."""
    try:
        link = base_url.join(URL(url))
    except ValueError as exc:
        raise ProviderProtocolError("the provider sent a link that cannot be read") from exc
    own = (link.host, link.port) == (base_url.host, base_url.port)
    return RemotePicture(url=str(link), revised_prompt=revised_prompt, trusted_host=trusted_host(link) if own else None)


def trusted_host(url: URL) -> str:
    """How a `RemotePicture` names the operator's own server: host and port."""
    return f"{url.host}:{url.port}"


def usage_of(said: Any) -> Usage | None:
    """Read the tokens that an answer tells of."""
    if not isinstance(said, Mapping):
        return None
    usage = Usage(
        input_tokens=_count(said.get("input_tokens")),
        input_tokens_details=_counts(said.get("input_tokens_details")),
        output_tokens=_count(said.get("output_tokens")),
        output_tokens_details=_counts(said.get("output_tokens_details")),
        total_tokens=_count(said.get("total_tokens")),
    )
    return usage if usage != Usage() else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(value: Any) -> Mapping[str, int] | None:
    if not isinstance(value, Mapping):
        return None
    return {name: count for name, count in value.items() if _count(count) is not None}
