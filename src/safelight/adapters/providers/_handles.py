"""What providers with handles share: when to ask again, how far the work is, where its pictures are, how it ended."""

import re
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._http import ProviderHttp
from safelight.adapters.providers._openai_shape import trusted_host
from safelight.application.ports import Call, Failed, Finished, RemotePicture, Running, StoredPicture
from safelight.domain.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
)
from safelight.domain.money import Charged

T = TypeVar("T")
P = TypeVar("P")
Poll = Callable[[P, str, Call], Coroutine[Any, Any, Running | Finished | Failed]]

LONGEST_PAUSE_S = 10.0
_PAUSE_BY_AGE = 0.2
_PROGRESS_BAR = re.compile(r"(\d{1,3})%\s*\|")


def pause_s(age_s: float, *, least_s: float) -> float:
    """How long to wait before asking again: often while the work is young, a fifth of its age later."""
    return min(LONGEST_PAUSE_S, max(least_s, age_s * _PAUSE_BY_AGE))


def progress_in(logs: str | None) -> float | None:
    """Read the last progress bar (tqdm's) in a model's logs, from 0 to 1."""
    bars = _PROGRESS_BAR.findall(logs or "")
    return min(1.0, int(bars[-1]) / 100) if bars else None


async def ask_state(
    http: ProviderHttp, call: Call, url: URL, kind: type[T], *, body: Body | None = None
) -> tuple[Answer, T]:
    """Ask how accepted work stands; one GET, or a POST of `body`.

    An answer that cannot be read is no end of the work: `ProviderUnavailable`, and the engine asks again. Nor does a
    question that is refused say that the work was: `ProviderProtocolError`, its outcome is unknown.
    """
    try:
        answer = await http.ask(call, url, method="POST" if body else "GET", body=body)
    except ProviderRejected as exc:
        raise ProviderProtocolError(
            f"the provider tells nothing of the work: {exc.message}", status=exc.status, request_id=exc.request_id
        ) from exc
    try:
        return answer, answer.read(kind)
    except ProviderProtocolError as exc:
        raise ProviderUnavailable(exc.message, status=502, request_id=answer.request_id) from exc


async def picture_at(
    answer: Answer, url: str, base_url: URL, *, revised_prompt: str | None = None
) -> StoredPicture | RemotePicture:
    """Take a picture of a result: a link for the engine to fetch, or a data URL. Raises `ProviderProtocolError`."""
    if url in answer.lifted or url.startswith("data:"):
        return await answer.picture(url, revised_prompt=revised_prompt)
    try:
        link = base_url.join(URL(url))
    except ValueError as exc:
        raise answer.unreadable("the provider sent a link that cannot be read") from exc
    own = (link.host, link.port) == (base_url.host, base_url.port)
    return RemotePicture(url=str(link), revised_prompt=revised_prompt, trusted_host=trusted_host(link) if own else None)


def ended(error: ProviderError) -> ProviderError:
    """Say of an error that the work itself ended so, and with it whether that may have been charged."""
    error.charged = error.charged or (Charged.UNKNOWN if error.error_class.may_be_charged else Charged.NO)
    return error


def telling_ends(poll: Poll[P]) -> Poll[P]:
    """Make a `poll` answer `Failed` where the work has `ended`; what else it raises says only that asking failed."""

    @wraps(poll)
    async def told(provider: P, handle: str, call: Call) -> Running | Finished | Failed:
        try:
            return await poll(provider, handle, call)
        except ProviderError as error:
            if error.charged is None:
                raise
            return Failed(error=error, charged=error.charged)

    return told
