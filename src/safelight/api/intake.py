"""From an HTTP request to a checked `ImageRequest`, its images already in the blob store."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from starlette.requests import Request

from safelight.api import fields, headers
from safelight.api.body import UnsupportedContentType, body_chunks
from safelight.api.multipart import FileInfo, Form, FormFile, MultipartLimits, read_form
from safelight.api.services import Services
from safelight.application.ports import ImageSink, PictureFetcher, RemotePicture, Workspace
from safelight.base64_json import Lifted, LiftError, TextMembers, decode, lift
from safelight.domain.errors import InvalidRequest, ProviderError
from safelight.domain.ids import BlobKey, JobId, ProviderName
from safelight.domain.image import ImageRequest, InputImage, Operation, ResponseFormat, Target

_LIFT_THRESHOLD_BYTES = 128 * 1024
"""Longer strings are taken for images; shorter images stay in the JSON for a moment."""
_PROMPTS = TextMembers(names=("prompt", "negative_prompt"), threshold=6 * fields.MOST_PROMPT_CHARS)
"""The longest prompt, with every character escaped."""
_MOST_JSON_BYTES = 4 * 1024 * 1024
_WRITE_BYTES = 64 * 1024
_LONGEST_LINK = 8 * 1024
_SHORT_BODY_BYTES = 256 * 1024
_SHORT_LENGTH_DIGITS = 5
"""A body below 100,000 bytes holds no image worth lifting out of it."""
_MEMBER_NAME = re.compile(rb'"[ \t\r\n]*:')
_MOST_MEMBERS_ANYWHERE = 20_000

_GENERATION_FIELDS = tuple(name for name in fields.CHECKS if name not in {"type", "input_fidelity"})
_EDIT_FIELDS = tuple(name for name in fields.CHECKS if name not in {"style", "moderation", "resolution"})
_VARIATION_FIELDS = ("n", "size", "response_format", "user")
_COMMON_FIELDS = frozenset({"model", "prompt", "stream", "fallbacks", "input_images", "metadata"})

_VARIATION_FILES = frozenset({"image", "image[]"})
_EDIT_FILES = _VARIATION_FILES | {"mask"}

_KNOWN_FIELDS = _COMMON_FIELDS.union(_GENERATION_FIELDS)

_read_values = msgspec.json.Decoder(dict[str, Any])
_read_texts = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(slots=True)
class Intake:
    """One request on its way in. What is known of it so far goes into the answer if it is refused."""

    request: Request
    services: Services
    operation: Operation
    job_id: JobId
    passes_extra: bool
    target: Target | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The caller's labels, known once the body has been read."""
    _workspace: Workspace | None = None

    async def read(self) -> ImageRequest:
        """Read and check the whole request. Raises `RequestError`, `BodyError`, `StorageError`."""
        if self.operation is Operation.GENERATION:
            return await self._generation()
        return await self._from_form()

    @property
    def images(self) -> Sequence[BlobKey]:
        """The images stored for this request so far."""
        return self._workspace.keys if self._workspace is not None else ()

    def images_besides(self, wanted: ImageRequest) -> Sequence[BlobKey]:
        """Those that the request, once read, has no use for: an `image` beside an `image[]`, a second mask."""
        kept = {image.image.blob for image in (*wanted.images, *([wanted.mask] if wanted.mask else ()))}
        return [blob for blob in self.images if blob not in kept]

    @property
    def known_fields(self) -> Mapping[str, str]:
        """The members of `extra_fields` that are known by now."""
        if self.target is None:
            return {"request_type": self.operation.value}
        return {
            "request_type": self.operation.value,
            "provider": self.target.provider,
            "model_requested": self.target.model,
            "original_model_requested": self.target.model,
        }

    def _chunks(self) -> AsyncIterator[bytes]:
        limits = self.services.limits
        return body_chunks(self.request, limit_bytes=limits.max_body_bytes, idle_timeout_s=limits.body_idle_timeout_s)

    def open_sink(self) -> ImageSink:
        """Begin one more image of this job."""
        if self._workspace is None:
            self._workspace = self.services.workspace(self.job_id)
        return self._workspace.open_sink()

    def _request(self, **members: Any) -> ImageRequest:
        extra = members.pop("extra")
        response_format = members.pop("response_format", None)
        return ImageRequest(
            operation=self.operation,
            extra=extra if self.passes_extra else {},
            extra_headers=headers.extra_headers(self.request.headers),
            key_name=headers.key_name(self.request.headers),
            response_format=ResponseFormat(response_format) if response_format else None,
            **members,
        )

    def _known_provider(self, model: str) -> ProviderName | None:
        """The one provider that is known to offer a bare model name."""
        found = [name for name, provider in self.services.providers.items() if provider.spec(model) is not None]
        return found[0] if found else None

    async def _generation(self) -> ImageRequest:
        images = JsonImages(self.open_sink, self.services.fetcher)
        lifted = await self._json(images)
        images.placeholders = frozenset(lifted.values)
        values = json_object(lifted.json)
        request = await self.generation(values, images)
        self._label(values.get("metadata"))
        for label in self.metadata.values() if images.placeholders else ():
            images.refuse("metadata", label, "metadata is too long")
        return request

    async def generation(self, values: Mapping[str, Any], images: "JsonImages") -> ImageRequest:
        """Check the members of a generation. Raises `RequestError`, `StorageError`."""
        prompt = values.get("prompt")
        if prompt is None or prompt == "":
            raise InvalidRequest("prompt cannot be empty", param="prompt")
        images.refuse("prompt", prompt, f"prompt must be at most {fields.MOST_PROMPT_CHARS} characters long")
        fields.prompt_check("prompt", prompt)
        self._refuse_stream(values.get("stream"))
        self.target = fields.target(values.get("model"), self._known_provider)
        for name in values.keys() & _GENERATION_FIELDS:
            images.refuse(name, values[name], f"{name} is too long")
        return self._request(
            target=self.target,
            prompt=prompt,
            fallbacks=fields.fallbacks(values.get("fallbacks")),
            images=await images.inputs(values.get("input_images")),
            extra=_extra(values, images) if self.passes_extra else {},
            **fields.checked(values, _GENERATION_FIELDS),
        )

    def _label(self, value: Any) -> None:
        """Take the labels of the body and those of the headers; of one name, the body's."""
        self.metadata = fields.labels({**headers.labels(self.request.headers), **fields.labels(value)})

    async def _json(self, images: "JsonImages") -> Lifted:
        """Read the body; strings of the size of an image go into the blob store on the way."""
        content_type = self.request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            raise UnsupportedContentType("Invalid request payload: Content-Type must be application/json")
        length = self.request.headers.get("content-length", "")
        if 0 < len(length) <= _SHORT_LENGTH_DIGITS and "content-encoding" not in self.request.headers:
            return Lifted(json=b"".join([chunk async for chunk in self._chunks()]), values={})
        try:
            return await lift(
                self._chunks(),
                images.open,
                threshold=_LIFT_THRESHOLD_BYTES,
                texts=_PROMPTS,
                max_json_bytes=_MOST_JSON_BYTES,
            )
        except LiftError as error:
            raise InvalidRequest(f"Invalid request payload: {error}") from error

    def _refuse_stream(self, stream: Any) -> None:
        if stream is not None and not isinstance(stream, bool):
            raise InvalidRequest("stream must be true or false", param="stream")
        if stream:
            kind = "generations" if self.operation is Operation.GENERATION else "edits"
            raise InvalidRequest(f"stream is not supported for async image {kind}", param="stream")

    async def _from_form(self) -> ImageRequest:
        limits = MultipartLimits(
            max_parts=fields.MOST_FIELDS,
            max_file_bytes=self.services.limits.max_image_bytes,
            max_files=2 * fields.MOST_IMAGES + 1,
        )
        form = await read_form(
            self._chunks(), self.request.headers.get("content-type"), limits=limits, open_file=self._open_file
        )
        texts = _texts(form)
        model = texts.get("model", [""])[0]
        if not model.strip():
            raise InvalidRequest("model is required", param="model")
        files = _files(form, "image[]") or _files(form, "image")
        if not files:
            raise InvalidRequest("at least one image is required", param="image")
        if len(files) > fields.MOST_IMAGES:
            raise InvalidRequest(f"at most {fields.MOST_IMAGES} images are taken", param="image")
        images = self._used([_input_image(file) for file in files])
        names = _EDIT_FIELDS if self.operation is Operation.EDIT else _VARIATION_FIELDS
        known = _known_texts(texts, names)
        masks = _files(form, "mask") if self.operation is Operation.EDIT else []
        mask = _input_image(masks[0]) if masks else None
        if self.operation is Operation.EDIT:
            self._refuse_stream(texts.get("stream", [""])[0] == "true")
        self.target = fields.target(model, self._known_provider)
        self._label(_json_text(texts, "metadata"))
        return self._request(
            target=self.target,
            prompt=self._form_prompt(texts),
            fallbacks=fields.fallbacks(texts.get("fallbacks", [])),
            images=images,
            mask=mask,
            extra={
                name: values[0] for name, values in texts.items() if name not in names and name not in _COMMON_FIELDS
            },
            **fields.checked(known, names),
        )

    def _used(self, images: list[InputImage]) -> tuple[InputImage, ...]:
        """A variation has one image; further ones count as an extra parameter (contract 5.4)."""
        further = self.operation is Operation.EDIT or self.passes_extra
        return tuple(images if further else images[:1])

    def _form_prompt(self, texts: Mapping[str, list[str]]) -> str | None:
        if self.operation is not Operation.EDIT or not texts.get("prompt", [""])[0]:
            return None
        return str(fields.prompt_check("prompt", texts["prompt"][0]))

    async def _open_file(self, info: FileInfo) -> "_FormImage":
        expected = _EDIT_FILES if self.operation is Operation.EDIT else _VARIATION_FILES
        if info.name not in expected:
            raise InvalidRequest(f"no file is expected in field {info.name[:100]!r}", param=info.name[:100])
        return _FormImage(self.open_sink())


class _FormImage:
    """Keeps an unreadable image's fault for later, so that faults are told in the contract's order."""

    def __init__(self, sink: ImageSink) -> None:
        self._sink = sink
        self._fault: InvalidRequest | None = None

    async def write(self, chunk: bytes) -> None:
        if self._fault is not None:
            return
        try:
            await self._sink.write(chunk)
        except InvalidRequest as error:
            self._fault = error
            await self._sink.abort()

    async def close(self) -> None:
        if self._fault is not None:
            return
        try:
            await self._sink.close()
        except InvalidRequest as error:
            self._fault = error

    async def abort(self) -> None:
        if self._fault is None:
            self._fault = InvalidRequest("is not base64 to its end")
            await self._sink.abort()

    def input_image(self, name: str, filename: str) -> InputImage:
        """The stored image; raises `InvalidRequest` naming its field."""
        if self._fault is not None:
            what = f"the file {filename!r}" if filename else "the image"
            raise InvalidRequest(f"{name}: {what} {self._fault.message}", param=name)
        return InputImage(image=self._sink.image, filename=filename)


class JsonImages:
    """Images inside a JSON body: those lifted out of it, and short ones that are still in it."""

    def __init__(self, open_sink: Callable[[], ImageSink], fetcher: PictureFetcher | None = None) -> None:
        """Without a `fetcher` no links are taken."""
        self._open_sink = open_sink
        self._fetcher = fetcher
        self._lifted: dict[str, _FormImage] = {}
        self.placeholders: frozenset[str] = frozenset()
        """What stands for long values, images or not; known once the body has been read."""

    async def open(self, placeholder: str) -> _FormImage:
        """Make the sink of one lifted value."""
        if len(self._lifted) >= fields.MOST_IMAGES:
            raise InvalidRequest(f"at most {fields.MOST_IMAGES} images are taken", param="input_images")
        image = self._lifted[placeholder] = _FormImage(self._open_sink())
        return image

    def refuse(self, name: str, value: Any, message: str) -> None:
        """Refuse a field whose value was so long that it was taken for an image."""
        if isinstance(value, str) and value in self.placeholders:
            raise InvalidRequest(message, param=name)

    async def inputs(self, value: Any) -> tuple[InputImage, ...]:
        """Read `input_images`: base64, data URLs or https links."""
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidRequest("input_images must be a list of strings", param="input_images")
        if len(value) > fields.MOST_IMAGES:
            raise InvalidRequest(f"at most {fields.MOST_IMAGES} images are taken", param="input_images")
        return tuple([await self._input(f"input_images[{index}]", text) for index, text in enumerate(value)])

    async def _input(self, name: str, text: str) -> InputImage:
        if text.startswith(("http://", "https://")):
            return await self._behind_link(name, text)
        image = self._lifted.get(text) or await self._store(name, text)
        return image.input_image(name, "")

    async def _behind_link(self, name: str, url: str) -> InputImage:
        """Fetch an image now, through the address guard: what is behind a link may change."""
        if self._fetcher is None or len(url) > _LONGEST_LINK:
            raise InvalidRequest(f"{name}: send the image as base64 or a data URL, not as a link", param=name)
        sink = self._open_sink()
        try:
            await self._fetcher.fetch(RemotePicture(url=url), sink)
        except ProviderError as error:
            told = error.message.replace("the provider's picture link", "the link")
            told = told.replace("the provider's picture", "the image").replace(
                "the provider linked to", "the link leads to"
            )
            raise InvalidRequest(f"{name}: {told}", param=name) from error
        return InputImage(image=sink.image)

    async def _store(self, name: str, text: str) -> _FormImage:
        """Put a short image, which is still in the JSON, where the lifted ones are."""
        content = decode(text)
        if not content:
            raise InvalidRequest(f"{name} must be an image as base64 or a data URL", param=name)
        image = _FormImage(self._open_sink())
        try:
            for start in range(0, len(content), _WRITE_BYTES):
                await image.write(content[start : start + _WRITE_BYTES])
        except BaseException:
            await image.abort()
            raise
        await image.close()
        return image


def json_object(body: bytes) -> Mapping[str, Any]:
    """Read the JSON object. Of a large one, a value is only made into objects when it is asked for."""
    try:
        if len(body) <= _SHORT_BODY_BYTES:
            values: Mapping[str, Any] = _read_values.decode(body)
        else:
            _refuse_countless_members(body)
            values = _LazyValues(_read_texts.decode(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Invalid request payload: {error}") from error
    if len(values) > fields.MOST_FIELDS:
        raise InvalidRequest(f"Invalid request payload: more than {fields.MOST_FIELDS} fields")
    return values


def _refuse_countless_members(body: bytes) -> None:
    members = sum(1 for _ in islice(_MEMBER_NAME.finditer(body), _MOST_MEMBERS_ANYWHERE + 1))
    if members > _MOST_MEMBERS_ANYWHERE:
        raise InvalidRequest(f"Invalid request payload: more than {fields.MOST_FIELDS} fields")


class _LazyValues(Mapping[str, Any]):
    """A JSON object whose values are still text."""

    def __init__(self, texts: Mapping[str, msgspec.Raw]) -> None:
        self._texts = texts

    def __getitem__(self, name: str) -> Any:
        text = self._texts[name]
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{name[:100]}: {error}", param=name[:100]) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _extra(values: Mapping[str, Any], images: JsonImages) -> dict[str, Any]:
    extra = {name: values[name] for name in values if name not in _KNOWN_FIELDS}
    for name, value in extra.items() if images.placeholders else ():
        text = msgspec.json.encode(value)
        if any(placeholder.encode() in text for placeholder in images.placeholders):
            raise InvalidRequest(f"{name[:100]} is too long", param=name[:100])
    return extra


def _texts(form: Form[_FormImage]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for text in form.fields:
        texts.setdefault(text.name, []).append(text.value)
    return texts


def _json_text(texts: Mapping[str, list[str]], name: str) -> Any:
    """Read a field whose text is JSON; an empty one counts as absent."""
    text = texts.get(name, [""])[0]
    if not text.strip():
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{name} must be JSON: {error}", param=name) from error


def _files(form: Form[_FormImage], name: str) -> list[FormFile[_FormImage]]:
    return [file for file in form.files if file.info.name == name]


def _input_image(file: FormFile[_FormImage]) -> InputImage:
    return file.sink.input_image(file.info.name, file.info.filename)


def _known_texts(texts: Mapping[str, list[str]], names: tuple[str, ...]) -> dict[str, Any]:
    """The first value of each known text part; integers are read, an empty part counts as absent."""
    return {
        name: fields.whole_number(name, texts[name][0]) if name in fields.INTEGERS else texts[name][0]
        for name in names
        if name in texts and texts[name][0] != ""
    }
