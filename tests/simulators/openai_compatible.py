"""A local OpenAI-shaped image server on loopback. `python -m tests.simulators.openai_compatible --port 9102`.

Source: the provider sheet on local servers, 2026-11-23. As loose as those servers: fields that it does not know are
ignored, `response_format` defaults to `url` (LocalAI), errors are `{"detail": …}` with 422 (vLLM-Omni).
"""

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pybase64

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = "/generated-images/"
KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "prompt": (str,),
    "n": (int,),
    "size": (str,),
    "response_format": (str,),
    "output_format": (str,),
    "negative_prompt": (str,),
    "user": (str,),
    "seed": (int,),
    "num_inference_steps": (int,),
    "guidance_scale": (int, float),
}


def refusal(message: str, status: int = 422) -> Refusal:
    return Refusal(json_reply({"detail": message}, status=status))


class OpenAICompatibleSimulator(Simulator):
    """`key` None asks for none. `formats` are the forms of result it can give; the first is its default."""

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self,
        *,
        key: str | None = None,
        models: tuple[str, ...] = ("flux", "any"),
        formats: tuple[str, ...] = ("url", "b64_json"),
        protect_files: bool = False,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._known_models = models
        self._formats = formats
        self._protect_files = protect_files
        self._image_bytes = image_bytes
        self._files: dict[str, bytes] = {}
        self._routes: dict[tuple[str, str], Callable[[Call], Reply]] = {
            ("POST", "/v1/images/generations"): self._generate,
            ("POST", "/v1/images/edits"): self._edit,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): lambda _call: json_reply({"status": "ok"}),
        }

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path in {"/v1/images/generations", "/v1/images/edits"}

    def error_body(self, status: int) -> dict[str, Any]:
        return {"detail": f"simulated failure {status}"}

    def empty_body(self) -> dict[str, Any]:
        return {"created": int(time.time()), "data": []}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message)

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES) and not self._protect_files:
            return self._file(call)
        if self._key is not None and call.exchange.headers.get("authorization") != f"Bearer {self._key}":
            raise refusal("unauthorized", 401)
        if call.path.startswith(FILES):
            return self._file(call)
        route = self._routes.get((call.method, call.path))
        if route is None:
            raise refusal("Not Found", 404)
        return route(call)

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET":
            raise refusal("Not Found", 404)
        return Reply(body=content, headers={"Content-Type": "image/png"})

    def _models(self, _call: Call) -> Reply:
        return json_reply({"object": "list", "data": [{"id": name, "object": "model"} for name in self._known_models]})

    def _generate(self, call: Call) -> Reply:
        if call.content_type != "application/json":
            raise refusal("the body must be JSON")
        return self._pictures(call, call.fields)

    def _edit(self, call: Call) -> Reply:
        if call.content_type != "multipart/form-data":
            raise refusal("the body must be a form")
        if not any(part.name in {"image", "image[]"} for part in call.exchange.files):
            raise refusal("field required: image")
        numbers = {name: _typed(name, value) for name, value in call.fields.items()}
        return self._pictures(call, numbers)

    def _pictures(self, call: Call, fields: dict[str, Any]) -> Reply:
        _check(fields)
        if fields.get("model", self._known_models[0]) not in self._known_models:
            raise refusal(f"model {fields['model']!r} is not served here", 404)
        form = fields.get("response_format", self._formats[0])
        if form not in self._formats:
            raise refusal(f"response_format must be one of {self._formats}")
        outputs = tuple(self._output(call, fields, index) for index in range(fields.get("n", 1)))
        data = [self._item(form, f"{call.exchange.number}-{index}.png", each) for index, each in enumerate(outputs)]
        return json_reply({"created": int(time.time()), "data": data}, outputs=outputs)

    def _output(self, call: Call, fields: dict[str, Any], index: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        width, height = (int(side) for side in fields.get("size", "512x512").split("x"))
        return stamped(picture(width, height, "png"), f"call {call.exchange.number}, image {index}")

    def _item(self, form: str, name: str, content: bytes) -> dict[str, Any]:
        if form == "b64_json":
            return {"b64_json": pybase64.b64encode(content).decode(), "url": None, "revised_prompt": None}
        self._files[name] = content
        return {"url": f"{self.root_url}{FILES}{name}"}


def _typed(name: str, value: Any) -> Any:
    """Read the numbers of a form; what is none stays text, to be refused."""
    for kind in KINDS.get(name, ()):
        with contextlib.suppress(ValueError, TypeError):
            return kind(value)
    return value


def _check(fields: dict[str, Any]) -> None:
    for name, kinds in KINDS.items():
        if name in fields and type(fields[name]) not in kinds:
            raise refusal(f"{name}: wrong type")
    if not fields.get("prompt"):
        raise refusal("field required: prompt")
    if not 1 <= fields.get("n", 1) <= 10:
        raise refusal("n must be 1 to 10")
    if not re.fullmatch(r"[1-9]\d{1,3}x[1-9]\d{1,3}", fields.get("size", "512x512")):
        raise refusal("size must be WIDTHxHEIGHT")


def main() -> None:
    parser = argument_parser(__doc__, port=9102)
    parser.add_argument("--b64-only", action="store_true", help="refuse response_format url, as vLLM-Omni does")
    options = parser.parse_args()
    formats = ("b64_json",) if options.b64_only else ("url", "b64_json")

    def make() -> Simulator:
        return OpenAICompatibleSimulator(key=options.key, formats=formats, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        keys = f"\n    keys: [{{name: simulated, value: {options.key}}}]" if options.key else ""
        return f"providers:\n  gpu-box:\n    type: openai_compatible\n    base_url: {base_url}{keys}\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
