"""What the Gemini API and Vertex AI share: the body of `generateContent` and its answer.

Sources: https://ai.google.dev/gemini-api/docs/image-generation and https://ai.google.dev/api/generate-content, read
2026-11-23.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._errors import redact
from safelight.adapters.providers._gemini_frames import image_config
from safelight.adapters.providers._http import ProviderHttp
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import prompt_of, via_of
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Call, Finished, ProviderKey, StoredPicture
from safelight.domain.capability import OPTIONAL_FIELDS, ModelSpec, Rule
from safelight.domain.errors import (
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Usage

FIELDS = frozenset(
    {"size", "quality", "background", "moderation", "seed", "negative_prompt", "aspect_ratio", "resolution"}
)
"""Of the optional fields, those that the body can carry in some way."""

_INPUT_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
_HARMS = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
_LEAST_BLOCKED = [{"category": f"HARM_CATEGORY_{harm}", "threshold": "BLOCK_ONLY_HIGH"} for harm in _HARMS]

_VERSIONED = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?/$")
_WORDS_CHARS = 300


# What a request cannot say here


def _no_mask(request: ImageRequest) -> UnsupportedFeature | None:
    if request.mask is not None:
        return UnsupportedFeature("Gemini models take no mask: say in the prompt what to change", param="mask")
    return None


def _always_opaque(request: ImageRequest) -> UnsupportedFeature | None:
    if request.background == "transparent":
        return UnsupportedFeature("Gemini models draw no transparent background", param="background")
    return None


def _two_moderations(request: ImageRequest) -> UnsupportedFeature | None:
    if request.moderation not in {None, "auto", "low"}:
        return UnsupportedFeature("moderation must be auto or low", param="moderation")
    return None


def _readable_inputs(request: ImageRequest) -> UnsupportedFeature | None:
    for image in request.images:
        if image.image.content_type not in _INPUT_TYPES:
            return UnsupportedFeature(f"Gemini models do not read {image.image.content_type}", param="image")
    return None


RULES: tuple[Rule, ...] = (
    _no_mask,
    _always_opaque,
    _two_moderations,
    _readable_inputs,
    edits_inpaint,
    edits_need_prompt,
)


def refuse_imagen(model: str) -> None:
    """Refuse the models that Google has switched off; they had another method, which answers 404 now."""
    if model.startswith("imagen-"):
        raise ProviderModelGone(f"Google has switched {model} off, on 2026-08-17: take a Gemini image model instead")


def refuse_unsendable(call: Call, fields: Iterable[str], rules: Sequence[Rule]) -> None:
    """Refuse what no model here can be told: an unknown one has had no check yet."""
    request = call.request
    for name in OPTIONAL_FIELDS:
        if name not in fields and getattr(request, name) is not None:
            raise UnsupportedFeature(f"{request.target.provider} has no {name}", param=name)
    for rule in rules:
        if (refusal := rule(request)) is not None:
            raise refusal
    if call.n > 1:
        raise UnsupportedFeature(
            f"{call.model} draws one picture a call: ask for one, or describe it under models with max_n: 1", param="n"
        )


# The address and the body


def api_key(key: ProviderKey) -> Mapping[str, str]:
    """Show a key in Google's header; as a parameter of the address it would end up in logs."""
    return {"x-goog-api-key": key.value} if key.value else {}


def version_path(http: ProviderHttp, version: str) -> str:
    """Give the version's part of the path: nothing where the base URL names one already."""
    return "" if _VERSIONED.search(http.base_url.path) else f"{version}/"


def model_path(model: str) -> str:
    """Give the end of the path."""
    return f"models/{quote(model, safe='')}:generateContent"


def generate_body(call: Call, spec: ModelSpec | None, *, output: Mapping[str, Any] | None = None) -> Body:
    """Make the body of a generation and an edit alike; `output` joins the image configuration.

    Raises `UnsupportedFeature` for a frame that a known model does not draw.
    """
    request = call.request
    pictures = InlinePictures(call.workspace)
    parts = [{"text": text} for text in _texts(request)]
    inputs = [
        {"inlineData": {"mimeType": image.image.content_type, "data": pictures.base64(image.image)}}
        for image in request.images
    ]
    config: dict[str, Any] = {"responseModalities": ["IMAGE"]}
    if frame := {**image_config(request, spec), **(output or {})}:
        config["imageConfig"] = frame
    if request.seed is not None:
        config["seed"] = request.seed
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [*parts, *inputs]}], "generationConfig": config}
    if request.moderation == "low":
        body["safetySettings"] = _LEAST_BLOCKED
    return pictures.body(_merged(body, request.extra))


def _texts(request: ImageRequest) -> Iterator[str]:
    """Give the prompt as one text. There is no field for what is not wanted, so it is said in words."""
    words = [prompt_of(request), f"Avoid: {request.negative_prompt}" if request.negative_prompt else None]
    if text := "\n\n".join(word for word in words if word):
        yield text


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the caller's parameters over ours, object by object: one more setting does not displace the others."""
    merged = {**ours, **theirs}
    for name in ours.keys() & theirs.keys():
        if isinstance(ours[name], Mapping) and isinstance(theirs[name], Mapping):
            merged[name] = _merged(ours[name], theirs[name])
    return merged


# The answer


class _Inline(msgspec.Struct):
    data: str = ""


class _Part(msgspec.Struct):
    text: Any = None
    inline: _Inline | None = msgspec.field(default=None, name="inlineData")
    thought: Any = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    reason: Any = msgspec.field(default=None, name="finishReason")
    message: Any = msgspec.field(default=None, name="finishMessage")

    @property
    def stopped(self) -> bool:
        """Whether it ended as it should."""
        return self.reason in {None, "STOP", "FINISH_REASON_UNSPECIFIED"}

    @property
    def parts(self) -> list[_Part]:
        """What it says; its working sketches are left out."""
        parts = (self.content.parts if self.content else None) or []
        return [part for part in parts if part.thought is not True]


class _Generated(msgspec.Struct):
    """Only what we cannot do without is typed: a paid picture is not thrown away for an odd word beside it."""

    candidates: list[_Candidate] | None = None
    feedback: Any = msgspec.field(default=None, name="promptFeedback")
    usage: Any = msgspec.field(default=None, name="usageMetadata")
    model: Any = msgspec.field(default=None, name="modelVersion")
    response_id: Any = msgspec.field(default=None, name="responseId")


async def finished(answer: Answer, call: Call) -> Finished:
    """Read an answer. Raises a `ProviderError` when there is no picture in it, which HTTP 200 does not rule out."""
    said = answer.read(_Generated)
    pictures = await _pictures(answer, said)
    if not pictures:
        raise _no_picture(answer, said, call)
    first = pictures[0].image
    return Finished(
        pictures=pictures,
        model=answer.words(said.model),
        usage=_usage(said.usage),
        output_format=first.content_type.removeprefix("image/"),
        size=str(first.dimensions),
        via=via_of(call.request),
    )


async def _pictures(answer: Answer, said: _Generated) -> tuple[StoredPicture, ...]:
    """Take the pictures that can be read; raises `ProviderProtocolError` if there are some and none can."""
    ended = [candidate for candidate in said.candidates or [] if candidate.stopped]
    found = [part.inline.data for candidate in ended for part in candidate.parts if part.inline]
    pictures: list[StoredPicture] = []
    fault: ProviderProtocolError | None = None
    for data in found:
        try:
            pictures.append(await answer.picture(data))
        except ProviderProtocolError as exc:
            fault = exc
    if fault is not None and not pictures:
        raise fault
    return tuple(pictures)


def _no_picture(answer: Answer, said: _Generated, call: Call) -> ProviderError:
    """Say why there is no picture: the prompt or the picture was blocked, the model failed, or it answered in words."""
    candidate = next(iter(said.candidates or []), None)
    if candidate is None:
        return _blocked_prompt(answer, said)
    reason = answer.words(candidate.reason) or "STOP"
    message = f"the model ended without a picture ({reason}){_quoted(answer, candidate, call)}"
    kind = _failure(call) if _model_failed(reason) else ProviderRejected
    return kind(message, status=answer.status, provider_code=reason, request_id=_request_id(answer, said))


def _blocked_prompt(answer: Answer, said: _Generated) -> ProviderError:
    reason = said.feedback.get("blockReason") if isinstance(said.feedback, dict) else None
    if not isinstance(reason, str):
        return answer.unreadable(f"the provider answered HTTP {answer.status} without a picture")
    unknown = ", for a reason that it does not tell" if reason in {"OTHER", "BLOCKED_REASON_UNSPECIFIED"} else ""
    return ProviderRejected(
        f"the prompt was blocked ({reason}){unknown}",
        status=answer.status,
        provider_code=reason,
        request_id=_request_id(answer, said),
    )


def _model_failed(reason: str) -> bool:
    """Whether another try may do better. Of reasons that we do not know we take it that none will."""
    return reason in {"STOP", "NO_IMAGE", "IMAGE_OTHER", "OTHER"} or reason.startswith("MALFORMED_")


def _failure(call: Call) -> type[ProviderError]:
    """One more try is worth it, not two: its words are paid for."""
    return ProviderUnavailable if call.attempt == 1 else ProviderRejected


def _quoted(answer: Answer, candidate: _Candidate, call: Call) -> str:
    """Quote what it said in place of a picture, often a question."""
    texts = [candidate.message, *(part.text for part in candidate.parts)]
    words = " ".join(" ".join(text for text in map(answer.words, texts) if text).split())
    return f": {redact(words, call.key.value)[:_WORDS_CHARS]}" if words else ""


def _request_id(answer: Answer, said: _Generated) -> str | None:
    return answer.request_id or answer.words(said.response_id)


def _usage(said: Any) -> Usage | None:
    if not isinstance(said, dict):
        return None
    made, thought = _count(said.get("candidatesTokenCount")), _count(said.get("thoughtsTokenCount"))
    usage = Usage(
        input_tokens=_count(said.get("promptTokenCount")),
        input_tokens_details=_by_kind(said.get("promptTokensDetails"), 0),
        output_tokens=None if made is None and thought is None else (made or 0) + (thought or 0),
        output_tokens_details=_by_kind(said.get("candidatesTokensDetails"), thought or 0),
        total_tokens=_count(said.get("totalTokenCount")),
    )
    return usage if usage != Usage() else None


def _by_kind(details: Any, more_text: int) -> Mapping[str, int] | None:
    """Add up tokens of text (thoughts are billed as such) and of pictures."""
    if not isinstance(details, list):
        return None
    counts = {"text_tokens": more_text, "image_tokens": 0}
    for item in details:
        if isinstance(item, dict) and (name := f"{item.get('modality')}".lower() + "_tokens") in counts:
            counts[name] += _count(item.get("tokenCount")) or 0
    return counts


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
