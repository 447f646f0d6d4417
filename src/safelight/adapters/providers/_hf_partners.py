"""The partners behind Hugging Face's router: it passes the wire format of each through, and they share none.

Source: https://github.com/huggingface/huggingface_hub (src/huggingface_hub/inference/_providers), read 2026-11-23.
A partner that is asked again later gives a path: of its addresses nothing else is of use with a token of Hugging Face.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._body import Body, Upload
from safelight.adapters.providers._errors import redact
from safelight.adapters.providers._handles import ended, picture_at
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import finished, given, prompt_of
from safelight.application.ports import Call, RemotePicture, StoredPicture
from safelight.domain.errors import ProviderError, ProviderRejected, UnsupportedFeature
from safelight.domain.image import ImageRequest

log = structlog.get_logger(__name__)

Pictures = tuple[StoredPicture | RemotePicture, ...]
Ask = Callable[[str], Awaitable[Answer]]
"""Gets a path below the router."""

_BY_MODEL = ("seed", "num_inference_steps", "negative_prompt", "quality", "style", "background", "aspect_ratio")
_SAME_NAMES = (*_BY_MODEL, "resolution", "output_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One line of the Hub's mapping: what a partner calls a model, and what it does with it."""

    model: str
    partner: str
    model_there: str
    task: str
    live: bool = True
    weights: str | None = None
    """A file of the model's repository, where it is a LoRA on top of the partner's model."""

    @property
    def weights_url(self) -> str:
        """Where the partner can fetch the LoRA."""
        return f"https://huggingface.co/{self.model}/resolve/main/{quote(self.weights or '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One purchase."""

    path: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)


class _State(Enum):
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


_STATES: Mapping[tuple[str, str], _State] = MappingProxyType(
    {
        # https://fal.ai/docs/inference-api/queue/status; COMPLETED is over, not "worked"
        ("fal-ai", "IN_QUEUE"): _State.RUNNING,
        ("fal-ai", "IN_PROGRESS"): _State.RUNNING,
        ("fal-ai", "COMPLETED"): _State.DONE,
        # https://replicate.com/docs/topics/predictions/lifecycle
        ("replicate", "starting"): _State.RUNNING,
        ("replicate", "processing"): _State.RUNNING,
        ("replicate", "succeeded"): _State.DONE,
        ("replicate", "failed"): _State.FAILED,
        ("replicate", "canceled"): _State.FAILED,
        ("replicate", "aborted"): _State.FAILED,
        # _providers/wavespeed.py and _providers/zai_org.py of the client; all read 2026-11-23
        ("wavespeed", "created"): _State.RUNNING,
        ("wavespeed", "processing"): _State.RUNNING,
        ("wavespeed", "completed"): _State.DONE,
        ("wavespeed", "failed"): _State.FAILED,
        ("zai-org", "PROCESSING"): _State.RUNNING,
        ("zai-org", "SUCCESS"): _State.DONE,
        ("zai-org", "FAIL"): _State.FAILED,
    }
)


class Partner(ABC):
    """One wire format."""

    name: ClassVar[str]
    loads_models: ClassVar[bool] = False
    """It answers 503 while it loads a model: nothing has run, nothing is paid."""

    @abstractmethod
    def order(self, call: Call, offer: Offer) -> Order:
        """Put the call into the partner's words; raises `UnsupportedFeature`."""

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        """Take what a purchase brought: pictures, or the path to ask on."""
        del call
        return (await finished(answer, base_url=base_url)).pictures

    async def follow(self, path: str, call: Call, ask: Ask, base_url: URL) -> Pictures | None:
        """Ask for accepted work; `None` while it runs. Raises a `ProviderError` as it ended."""
        answer = await ask(f"{self.name}{path}")
        found = await self.collect(answer, call, base_url)
        return None if isinstance(found, str) else found

    def state(self, word: str) -> _State:
        """Look up a status; an unknown one means still running."""
        found = _STATES.get((self.name, word))
        if found is None:
            log.warning("unknown_status", provider="huggingface", partner=self.name, status=word[:80])
        return found or _State.RUNNING

    def failure(self, said: Any, answer: Answer, call: Call) -> ProviderError:
        """Make the error of work that the partner took and did not finish."""
        reason = answer.words(said) or "without a reason"
        return ended(
            ProviderRejected(
                f"{self.name} failed: {redact(reason, call.key.value)}",
                provider_code="task_failed",
                request_id=answer.request_id,
            )
        )


def _sides(request: ImageRequest) -> dict[str, int]:
    size = request.pixel_size
    return {"width": size.width, "height": size.height} if size else {}


def _prompt(request: ImageRequest) -> dict[str, str]:
    prompt = prompt_of(request)
    return {} if prompt is None else {"prompt": prompt}


def _path(link: Any, answer: Answer) -> str:
    """Take an address as a path; raises `ProviderProtocolError`."""
    try:
        path = URL(answer.words(link) or "").raw_path
    except ValueError:
        path = ""
    if not path.strip("/"):
        raise answer.unreadable("the partner took the work and gave no address to ask at")
    return path


def _quoted(text: str) -> str:
    return quote(text, safe="/:@")


class HFInference(Partner):
    """Hugging Face's own: answers with the bytes of one picture."""

    name = "hf-inference"
    loads_models = True

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        body = self._edit(call) if request.images else self._generate(call)
        return Order(path=f"{self.name}/models/{_quoted(offer.model)}", body=body, headers={"Accept": "image/png"})

    @staticmethod
    def _generate(call: Call) -> Body:
        request = call.request
        parameters = given(request, ("negative_prompt", "num_inference_steps", "seed")) | _sides(request)
        value = {"inputs": request.prompt or "", "parameters": {**parameters, **request.extra}}
        return InlinePictures(call.workspace).body(value)

    @staticmethod
    def _edit(call: Call) -> Body:
        """Send the picture as it is where there is nothing to say of it."""
        request, image = call.request, call.request.images[0].image
        if request.seed is not None:
            raise UnsupportedFeature("hf-inference takes no seed with an image", param="seed")
        parameters: dict[str, Any] = {
            **_prompt(request),
            **given(request, ("negative_prompt", "num_inference_steps")),
            **({"target_size": sides} if (sides := _sides(request)) else {}),
            **request.extra,
        }
        if not parameters:
            upload = Upload(call.workspace.read(image), image.size_bytes, image.content_type)
            return Body(data=upload, content_type=image.content_type, uploads=(upload,))
        pictures = InlinePictures(call.workspace)
        return pictures.body({"inputs": pictures.base64(image), "parameters": parameters})

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        del call, base_url
        return (answer.whole_picture(),)


class _FalQueued(msgspec.Struct):
    response_url: str


class _FalStatus(msgspec.Struct):
    status: str
    error: Any = None
    error_type: Any = None


class _FalImage(msgspec.Struct):
    url: str


class _FalResult(msgspec.Struct):
    images: list[_FalImage] = []
    image: _FalImage | None = None
    has_nsfw_concepts: Any = None


class Fal(Partner):
    """Through fal's queue alone: its synchronous route is paid and lost when it breaks off."""

    name = "fal-ai"
    _queue = "?_subdomain=queue"

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        pictures = InlinePictures(call.workspace)
        fields: dict[str, Any] = {**_prompt(request), **given(request, _SAME_NAMES)}
        if sides := _sides(request):
            fields["image_size"] = sides
        if call.n > 1:
            fields["num_images"] = call.n
        if request.images:  # which of the two a model reads depends on the model
            fields["image_url"] = pictures.data_url(request.images[0].image)
            fields["image_urls"] = [pictures.data_url(sent.image) for sent in request.images]
        if offer.weights:
            fields["loras"] = [{"path": offer.weights_url, "scale": 1}]
        path = f"{self.name}/{_quoted(offer.model_there)}{self._queue}"
        return Order(path=path, body=pictures.body({**fields, **request.extra}))

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        del call, base_url
        return _path(answer.read(_FalQueued).response_url, answer)

    async def follow(self, path: str, call: Call, ask: Ask, base_url: URL) -> Pictures | None:
        """One or two GETs: the result has a route of its own."""
        answer = await ask(f"{self.name}{path}/status{self._queue}")
        said = answer.read(_FalStatus)
        if self.state(said.status) is _State.RUNNING:
            return None
        if said.error or said.error_type:
            raise self.failure(said.error or said.error_type, answer, call)
        try:
            answer = await ask(f"{self.name}{path}{self._queue}")
        except ProviderError as error:
            # A typed fault is the work's own end; anything else came up on the way, and may pass.
            raise (error if error.provider_type is None else ended(error)) from error.__cause__
        return await self._pictures(answer, base_url)

    @staticmethod
    async def _pictures(answer: Answer, base_url: URL) -> Pictures:
        result = answer.read(_FalResult)
        images = result.images or ([result.image] if result.image else [])
        flags = result.has_nsfw_concepts if isinstance(result.has_nsfw_concepts, list) else []
        clean = [image for place, image in enumerate(images) if flags[place : place + 1] != [True]]
        if images and not clean:
            raise ProviderRejected(
                "fal's safety checker has blackened the picture", provider_code="content_policy_violation"
            )
        if not clean:
            raise answer.unreadable("fal's request ended without a picture")
        return tuple([await picture_at(answer, image.url, base_url) for image in clean])


class _Prediction(msgspec.Struct):
    id: str
    status: str = ""
    output: Any = None
    error: Any = None


class Replicate(Partner):
    """Holds the request for up to a minute; what takes longer is asked for, which the router may not offer."""

    name = "replicate"

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        pictures = InlinePictures(call.workspace)
        inputs: dict[str, Any] = {**_prompt(request), **given(request, _SAME_NAMES), **_sides(request)}
        if request.output_format == "jpeg":
            inputs["output_format"] = "jpg"
        for one, several in (("image", "images"), ("input_image", "input_images")) if request.images else ():
            inputs[one] = pictures.data_url(request.images[0].image)
            inputs[several] = [pictures.data_url(sent.image) for sent in request.images]
        if offer.weights:
            inputs["lora_weights"] = f"https://huggingface.co/{offer.model}"
        name, _, version = offer.model_there.partition(":")
        path = "predictions" if version else f"models/{_quoted(name)}/predictions"
        value = {"input": {**inputs, **request.extra}, **({"version": version} if version else {})}
        return Order(path=f"{self.name}/v1/{path}", body=pictures.body(value), headers={"Prefer": "wait"})

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        said = answer.read(_Prediction)
        match self.state(said.status):
            case _State.FAILED:
                raise self.failure(said.error, answer, call)
            case _State.DONE:
                links = said.output if isinstance(said.output, list) else [said.output]
                links = [link for link in links if isinstance(link, str)]
                if not links:
                    raise answer.unreadable("Replicate's prediction succeeded without a picture")
                return tuple([await picture_at(answer, link, base_url) for link in links])
            case _:
                return f"/v1/predictions/{quote(said.id, safe='')}"


class Together(Partner):
    """Answers at once."""

    name = "together"

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        pictures = InlinePictures(call.workspace)
        fields: dict[str, Any] = {"model": offer.model_there, "response_format": "base64", **_prompt(request)}
        fields |= given(request, ("seed", "negative_prompt", "output_format")) | _sides(request)
        if request.num_inference_steps is not None:
            fields["steps"] = request.num_inference_steps
        if call.n > 1:
            fields["n"] = call.n
        if request.images:
            fields |= self._sources([pictures.data_url(sent.image) for sent in request.images], offer)
        path = f"{self.name}/v1/images/generations"
        return Order(path=path, body=pictures.body({**fields, **request.extra}))

    @staticmethod
    def _sources(urls: list[str], offer: Offer) -> dict[str, Any]:
        if "kontext" not in f"{offer.model} {offer.model_there}".lower():
            return {"reference_images": urls}
        if len(urls) > 1:
            raise UnsupportedFeature(f"model {offer.model} takes at most 1 image", param="image")
        return {"image_url": urls[0]}


class Nscale(Partner):
    """Answers at once, with base64 alone."""

    name = "nscale"

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        fields: dict[str, Any] = {"model": offer.model_there, "response_format": "b64_json", **_prompt(request)}
        if size := request.pixel_size:
            fields["size"] = str(size)
        path = f"{self.name}/v1/images/generations"
        return Order(path=path, body=InlinePictures(call.workspace).body({**fields, **request.extra}))


class _WaveSpeedLinks(msgspec.Struct):
    get: Any = None


class _WaveSpeedTask(msgspec.Struct):
    status: str = ""
    outputs: list[str] | None = None
    error: Any = None
    urls: _WaveSpeedLinks | None = None


class _WaveSpeedAnswer(msgspec.Struct):
    data: _WaveSpeedTask


class WaveSpeed(Partner):
    """Takes the work, and is asked for it."""

    name = "wavespeed"

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        pictures = InlinePictures(call.workspace)
        fields: dict[str, Any] = {**_prompt(request), **given(request, _SAME_NAMES)}
        if size := request.pixel_size:
            fields["size"] = f"{size.width}*{size.height}"
        if request.images:
            fields["image"] = pictures.data_url(request.images[0].image)
        path = f"{self.name}/api/v3/{_quoted(offer.model_there)}"
        return Order(path=path, body=pictures.body({**fields, **request.extra}))

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        task = answer.read(_WaveSpeedAnswer).data
        match self.state(task.status):
            case _State.FAILED:
                raise self.failure(task.error, answer, call)
            case _State.DONE if not task.outputs:
                raise answer.unreadable("WaveSpeed's task completed without a picture")
            case _State.DONE:
                return tuple([await picture_at(answer, link, base_url) for link in task.outputs or ()])
            case _:
                return _path(task.urls.get if task.urls else None, answer)


class _ZaiPicture(msgspec.Struct):
    url: str


class _ZaiTask(msgspec.Struct):
    task_status: str = ""
    id: Any = None
    image_result: list[_ZaiPicture] | None = None


class Zai(Partner):
    """Takes the work, and is asked for it."""

    name = "zai-org"
    _headers: ClassVar[Mapping[str, str]] = {"x-source-channel": "hugging_face", "Accept-Language": "en-US,en"}

    def order(self, call: Call, offer: Offer) -> Order:
        request = call.request
        fields: dict[str, Any] = {"model": offer.model_there, **_prompt(request), **given(request, ("quality",))}
        if size := request.pixel_size:
            fields["size"] = str(size)
        body = InlinePictures(call.workspace).body({**fields, **request.extra})
        return Order(path=f"{self.name}/api/paas/v4/async/images/generations", body=body, headers=self._headers)

    async def collect(self, answer: Answer, call: Call, base_url: URL) -> Pictures | str:
        task = answer.read(_ZaiTask)
        match self.state(task.task_status):
            case _State.FAILED:
                raise self.failure(None, answer, call)
            case _State.DONE if not task.image_result:
                raise answer.unreadable("Z.ai's task succeeded without a picture")
            case _State.DONE:
                return tuple([await picture_at(answer, each.url, base_url) for each in task.image_result or ()])
            case _ if not answer.words(task.id):
                raise answer.unreadable("Z.ai took the work and gave no id")
            case _:
                return f"/api/paas/v4/async-result/{quote(str(task.id), safe='')}"


PARTNERS: Mapping[str, Partner] = MappingProxyType(
    {partner.name: partner for partner in (HFInference(), Fal(), Replicate(), Together(), Nscale(), WaveSpeed(), Zai())}
)
