"""Requests as data, for both transports alike: what is sent for each thing that a client can ask for."""

import mimetypes
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypedDict
from urllib.parse import quote, urlsplit
from uuid import uuid4

import msgspec

JOBS = "/v1/async/jobs"
BATCHES = "/v1/async/batches"
FILES = "/v1/files/"

CONNECT_S = 10.0
ANSWER_S = 60.0
UPLOAD_S = 600.0
"""Longer: it also runs while large images go up."""

ImageFile = str | os.PathLike[str] | bytes
"""A path, or the bytes themselves."""


class SubmitOptions(TypedDict, total=False):
    """What every operation takes."""

    n: int
    size: str
    response_format: str
    """`url`, which is the default, or `b64_json`."""
    fallbacks: Sequence[str]
    user: str
    metadata: Mapping[str, str]
    """Labels of your own, to find the job again."""
    extra: Mapping[str, Any]
    """Parameters that only the provider knows."""
    idempotency_key: str
    """Otherwise made for each call."""
    result_ttl_s: int
    webhook: str
    """The name of the endpoint that is to hear of it."""


class DrawOptions(SubmitOptions, total=False):
    """What generations and edits take."""

    quality: str
    background: str
    output_format: str
    output_compression: int
    partial_images: int
    seed: int
    num_inference_steps: int
    negative_prompt: str
    aspect_ratio: str


class GenerateOptions(DrawOptions, total=False):
    """What a generation takes. See the gateway's `/docs`."""

    style: str
    moderation: str
    resolution: str
    input_images: Sequence[str]
    """Base64 or data URLs."""


class EditOptions(DrawOptions, total=False):
    """What an edit takes."""

    mask: ImageFile
    input_fidelity: str
    type: str


class VaryOptions(SubmitOptions, total=False):
    """What a variation takes."""


class BatchOptions(TypedDict, total=False):
    """What holds for all lines of a batch."""

    metadata: Mapping[str, str]
    passes_extra: bool
    """Pass members on that the gateway does not know."""
    idempotency_key: str
    result_ttl_s: int
    webhook: str


class JobQuery(TypedDict, total=False):
    """Which jobs a listing shows."""

    status: str | None
    type: str | None
    model: str | None
    provider: str | None
    error_code: str | None
    idempotency_key: str | None
    created_after: datetime | str | None
    created_before: datetime | str | None


_HEADERS: Mapping[str, str] = {
    "idempotency_key": "Idempotency-Key",
    "result_ttl_s": "x-bf-async-job-result-ttl",
    "webhook": "x-bf-async-webhook",
}
_LABEL = "x-bf-dim-"
_PASS_EXTRA = {"x-bf-passthrough-extra-params": "true"}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file part of a form."""

    name: str
    source: ImageFile

    def part(self, opened: ExitStack) -> tuple[str, tuple[str, IO[bytes] | bytes, str]]:
        """As the HTTP library takes it; files are closed with `opened`."""
        if isinstance(self.source, bytes):
            return self.name, (self.name, self.source, "application/octet-stream")
        path = Path(self.source)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return self.name, (path.name, opened.enter_context(path.open("rb")), kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. It can be made again: files are opened anew each time."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str | list[str]] = field(default_factory=dict)
    files: Sequence[File] = ()
    answer_s: float = ANSWER_S
    repeatable: bool = True
    """Whether it may be sent again when it is not known what became of it."""

    def content(self, opened: ExitStack) -> Mapping[str, Any]:
        """The body as the HTTP library takes it."""
        if self.json is not None:
            return {"content": msgspec.json.encode(self.json), "headers": {"Content-Type": "application/json"}}
        if self.files:
            return {"data": dict(self.form), "files": [file.part(opened) for file in self.files]}
        return {}


def gateway_url(url: str) -> str:
    """The address without the `/v1` that OpenAI's clients want. Raises `ValueError` for what is no address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError(f"{url!r} is no address of a gateway; one looks like http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1")


def generation(prompt: str, model: str, options: GenerateOptions) -> Call:
    """Submit a generation."""
    fields, headers = _said(options, GenerateOptions)
    return _submit("generations", headers, json={"model": model, "prompt": prompt, **fields})


def edit(image: ImageFile | Sequence[ImageFile], prompt: str, model: str, options: EditOptions) -> Call:
    """Submit an edit."""
    fields, headers = _said(options, EditOptions)
    images = [image] if isinstance(image, str | bytes | os.PathLike) else image
    mask = fields.pop("mask", None)
    files = [File(name="image[]", source=each) for each in images]
    files += [File(name="mask", source=mask)] if mask is not None else []
    return _submit("edits", headers, form=_form(model=model, prompt=prompt, **fields), files=files)


def variation(image: ImageFile, model: str, options: VaryOptions) -> Call:
    """Submit a variation."""
    fields, headers = _said(options, VaryOptions)
    return _submit("variations", headers, form=_form(model=model, **fields), files=[File(name="image", source=image)])


def _submit(kind: str, headers: Mapping[str, str], **content: Any) -> Call:
    return Call(method="POST", path=f"/v1/async/images/{kind}", headers=headers, answer_s=UPLOAD_S, **content)


def _said(options: Mapping[str, Any], kind: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Sort what was said into fields and headers. Raises `TypeError` for a name that is none of `kind`."""
    if unknown := options.keys() - kind.__optional_keys__:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; what only the provider knows goes into extra=")
    said = {name: value for name, value in options.items() if value is not None}
    headers = {header: str(said.pop(name)) for name, header in _HEADERS.items() if name in said}
    headers.setdefault("Idempotency-Key", str(uuid4()))
    if extra := said.pop("extra", None):
        headers |= _PASS_EXTRA
        said |= extra
    return {"response_format": "url", **said}, headers


def _form(**fields: Any) -> dict[str, str | list[str]]:
    return {
        name: [_text(item) for item in value] if isinstance(value, list | tuple) else _text(value)
        for name, value in fields.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def read_job(job_id: str, *, wait_s: float = 0) -> Call:
    """Ask how a job fares; the gateway holds the answer until the end, at most `wait_s`."""
    wait = {"wait": f"{wait_s:.3f}"} if wait_s else {}
    return Call(method="GET", path=_job(job_id), params=wait, answer_s=ANSWER_S + wait_s)


def list_jobs(wanted: JobQuery, metadata: Mapping[str, str], limit: int) -> Call:
    """Ask for the first page of a listing."""
    if unknown := wanted.keys() - JobQuery.__optional_keys__:
        raise TypeError(f"jobs cannot be looked up by {', '.join(sorted(unknown))}")
    labels = {f"metadata.{name}": value for name, value in metadata.items()}
    said = {name: _moment(value) for name, value in wanted.items() if value is not None}
    return Call(method="GET", path=JOBS, params={**said, **labels, "limit": str(limit)})


def cancel_job(job_id: str) -> Call:
    """End a job that has not ended; one that has is answered as it is."""
    return Call(method="DELETE", path=_job(job_id), params={"only": "cancel"})


def delete_job(job_id: str) -> Call:
    """Remove a job that has ended."""
    return Call(method="DELETE", path=_job(job_id), params={"only": "delete"})


def _moment(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def retry_job(job_id: str) -> Call:
    """Run a failed job again. Never sent twice: it may cost money each time."""
    return Call(method="POST", path=f"{_job(job_id)}/retry", repeatable=False)


def events(job_id: str | None, after: str | None) -> Call:
    """Open the event stream of one job, or of all that the caller has."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
    return Call(method="GET", path=f"{_job(job_id)}/events" if job_id else "/v1/async/events", headers=headers)


def download(link: str) -> Call:
    """Fetch a result's link: at the address that we talk to, whatever the gateway calls itself."""
    parts = urlsplit(link)
    _, found, name = parts.path.partition(FILES)
    return Call(method="GET", path=f"{FILES}{name}?{parts.query}" if found else link)


def create_batch(lines: Iterable[Mapping[str, Any]] | str | os.PathLike[str], options: BatchOptions) -> Call:
    """Hand in a batch: lines, or a file of them."""
    if unknown := options.keys() - BatchOptions.__optional_keys__:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    said = {name: value for name, value in options.items() if value is not None}
    headers = {header: str(said.pop(name)) for name, header in _HEADERS.items() if name in said}
    headers.setdefault("Idempotency-Key", str(uuid4()))
    headers |= _PASS_EXTRA if said.pop("passes_extra", False) else {}
    metadata: Any = said.pop("metadata", {})
    headers |= {f"{_LABEL}{name}": value for name, value in metadata.items()}
    source = lines if isinstance(lines, str | os.PathLike) else b"\n".join(map(msgspec.json.encode, lines))
    return Call(
        method="POST", path=BATCHES, headers=headers, files=(File(name="file", source=source),), answer_s=UPLOAD_S
    )


def list_models() -> Call:
    """Ask for the models."""
    return Call(method="GET", path="/v1/models")


def read_batch(batch_id: str) -> Call:
    """Ask how a batch fares."""
    return Call(method="GET", path=_batch(batch_id))


def list_batches(limit: int) -> Call:
    """Ask for the first page of the batches."""
    return Call(method="GET", path=BATCHES, params={"limit": str(limit)})


def batch_results(batch_id: str, cursor: str | None, limit: int) -> Call:
    """Ask for a page of a batch's results."""
    params = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
    return Call(method="GET", path=f"{_batch(batch_id)}/results", params=params)


def cancel_batch(batch_id: str) -> Call:
    """Start no line any more, end those that run."""
    return Call(method="POST", path=f"{_batch(batch_id)}/cancel")


def retry_batch(batch_id: str) -> Call:
    """Run the lines again that have failed. Never sent twice."""
    return Call(method="POST", path=f"{_batch(batch_id)}/retry-failed", repeatable=False)


def next_page(call: Call, cursor: str) -> Call:
    """The page after the one that `call` asked for."""
    return replace(call, params={**call.params, "cursor": cursor})


def _job(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _batch(batch_id: str) -> str:
    return f"{BATCHES}/{quote(batch_id, safe='')}"
