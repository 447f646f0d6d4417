"""Finds out what each provider can be told, and writes it: `python -m tests.providers_matrix` rewrites the section.

Nothing is looked up in a list: each provider is asked for each thing, at an address where nobody is. What it cannot
express it refuses before any exchange; what it can ends in "could not connect".
"""

import asyncio
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from safelight.adapters.providers._base import BaseProvider, ProviderModule, ProviderSettings
from safelight.adapters.providers._http import HttpSessions, open_sessions
from safelight.adapters.providers._registry import load_providers
from safelight.application.ports import Provider
from safelight.domain.capability import OPTIONAL_FIELDS, Life
from safelight.domain.errors import ProviderError, ProviderModelGone, UnsupportedFeature
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest, InputImage, Operation, Target
from tests.providers.support import FolderWorkspace, call, image_bytes, mask_bytes

PAGE = Path(__file__).parents[1] / "docs" / "providers.md"
TITLE = "Operations and fields"
TODAY = date(2026, 11, 25)
ALL, SOME, NONE = "●", "○", ""

_SAMPLES: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType(
    {
        "size": [{"size": size} for size in ("1024x1024", "1024x768", "512x512", "2048x2048")],
        "quality": [{"quality": word} for word in ("high", "medium", "standard", "hd", "low")],
        "style": [{"style": word} for word in ("vivid", "photographic", "Film")],
        "background": [{"background": word, "output_format": "png"} for word in ("opaque", "transparent")]
        + [{"background": "transparent"}, {"background": "opaque"}],
        "moderation": [{"moderation": "low"}],
        "output_format": [{"output_format": word} for word in ("png", "jpeg", "webp")],
        "output_compression": [{"output_compression": 80, "output_format": word} for word in ("jpeg", "webp")]
        + [{"output_compression": 80}],
        "aspect_ratio": [{"aspect_ratio": ratio} for ratio in ("16:9", "1:1")],
        "resolution": [{"resolution": word} for word in ("1K", "2K", "1k", "2k")],
        "input_fidelity": [{"input_fidelity": word} for word in ("high", "low")],
        "partial_images": [{"partial_images": 1}],
        "seed": [{"seed": 7}],
        "num_inference_steps": [{"num_inference_steps": 4}],
        "negative_prompt": [{"negative_prompt": "blurry"}],
    }
)
_WAYS = ("generate", "edit", "mask", "several images", "vary", "handle", "cancel", "callback")
_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"sdwebui": {"styles": ["Film"]}})
_INTRO = """
Found out by asking each module, and held to it by a test. {all}: each of its listed models; {some}: some of them, as
[models.md](models.md) says; empty: refused before money is spent. What stands for a provider without listed models holds
for whatever model is named.

*handle*: accepted work is polled on after a restart. *cancel*: goes upstream. *callback*: with `callbacks: true`.
Operations that a further service of a model has, such as outpainting, are named above.
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A provider, and the models to ask about: those listed, or one that nobody knows."""

    module: ProviderModule[Any]
    provider: Provider
    models: Sequence[str]
    workspace: FolderWorkspace
    image: InputImage
    mask: InputImage

    def requests(self, model: str, operation: Operation, members: Mapping[str, Any]) -> Iterable[ImageRequest]:
        """The plainest request of an operation, with and without a prompt, since some models take none."""
        images = () if operation is Operation.GENERATION else (self.image,)
        wanted: dict[str, Any] = {"operation": operation, "images": images, **members}
        target = Target(provider=ProviderName(self.module.name), model=model)
        request = ImageRequest(target=target, prompt="a red fox", **wanted)
        return request, replace(request, prompt=None)

    async def takes(self, model: str, operation: Operation, **members: Any) -> bool:
        """Whether such a request would be sent."""
        for request in self.requests(model, operation, members):
            if await self._sends(model, request):
                return True
        return False

    async def _sends(self, model: str, request: ImageRequest) -> bool:
        spec = self.provider.spec(model)
        try:
            if spec is not None:
                spec.check(request)
            if self.module.remote:
                await self.provider.start(call(request, self.workspace, n=1))
        except (UnsupportedFeature, ProviderModelGone):
            return False
        except ProviderError:
            return True
        return not self.module.remote

    async def mark(self, asked: Sequence[tuple[Operation, Mapping[str, Any]]]) -> str:
        """How many of the models take one of these requests."""
        taken = 0
        for model in self.models:
            for operation, members in asked:
                if await self.takes(model, operation, **members):
                    taken += 1
                    break
        return NONE if not taken else ALL if taken == len(self.models) else SOME


@asynccontextmanager
async def subject(module: ProviderModule[Any], sessions: HttpSessions, folder: Path) -> AsyncIterator[Subject]:
    """Open a provider at an address where nobody is."""
    nowhere = f"http://127.0.0.1:{_closed_port()}"
    options = {**_OPTIONS.get(module.name, {}), **({"hub_url": nowhere} if module.name == "huggingface" else {})}
    settings = ProviderSettings(
        name=ProviderName(module.name), type=module.name, base_url=nowhere if module.remote else None, options=options
    )
    provider = module.open(settings, sessions)
    listed = [spec.name for spec in provider.specs if spec.life_on(TODAY) is not Life.RETIRED]
    if not module.remote:
        listed = ["sketch"]
    listed = [name.replace("*", "acme/owl") for name in listed]
    workspace = FolderWorkspace(folder)
    yield Subject(
        module=module,
        provider=provider,
        models=listed or ["owl"],
        workspace=workspace,
        image=workspace.put(image_bytes(1024, 1024)),
        mask=workspace.put(mask_bytes(1024, 1024)),
    )
    await provider.close()


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def ways(of: Subject) -> list[str]:
    """The cells of a provider's operations, and of how it works."""
    kind = type(of.provider)
    return [
        await of.mark([(Operation.GENERATION, {})]),
        await of.mark([(Operation.EDIT, {})]),
        await of.mark([(Operation.EDIT, {"mask": of.mask})]),
        await of.mark([(Operation.EDIT, {"images": (of.image, of.image)})]),
        await of.mark([(Operation.VARIATION, {})]),
        ALL if kind.poll is not BaseProvider.poll else NONE,
        ALL if kind.cancel is not BaseProvider.cancel else NONE,
        ALL if of.module.calls_back else NONE,
    ]


async def told(of: Subject) -> list[str]:
    """The cells of a provider's optional fields."""
    operations = (Operation.GENERATION, Operation.EDIT)
    return [
        await of.mark([(operation, members) for operation in operations for members in _SAMPLES[name]])
        for name in OPTIONAL_FIELDS
    ]


async def rows(module: ProviderModule[Any]) -> tuple[str, str]:
    """A provider's rows of the two tables."""
    sessions = open_sessions()
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with subject(module, sessions, Path(folder)) as of:
                return _row([f"`{module.name}`", *await ways(of)]), _row([f"`{module.name}`", *await told(of)])
    finally:
        await sessions.close()


async def text() -> str:
    """Write the section, without its title."""
    found = [await rows(module) for _, module in sorted(load_providers().items())]
    first = _table(_WAYS, [row for row, _ in found])
    second = _table([f"`{name}`" for name in OPTIONAL_FIELDS], [row for _, row in found])
    return f"{_INTRO.format(all=ALL, some=SOME)}\n{first}\n{second}\n"


def _table(columns: Sequence[str], rows_: Sequence[str]) -> str:
    return "".join([_row(["provider", *columns]), _row(["---", *(":-:" for _ in columns)]), *rows_])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def written(page: str) -> re.Match[str]:
    """Where the section stands."""
    found = re.search(rf"^## {TITLE}\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {TITLE!r}"
    return found


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    found = written(page)
    PAGE.write_text(page[: found.start(1)] + asyncio.run(text()) + page[found.end(1) :], encoding="utf-8")
