"""AUTOMATIC1111, Forge and SD.Next as a strict server on loopback. `python -m tests.simulators.sdwebui --port 9123`.

Source: the provider sheet read from the three projects' code (`/sdapi/v1`), 2026-11-23. It refuses fields that the real
servers would ignore. What the sheet leaves open (the wording of faults) is chosen here.
"""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

Dialect = Literal["a1111", "forge", "sdnext"]
CHECKPOINTS = (
    {
        "title": "XL/sd_xl_base_1.0.safetensors [31e35c80fc]",
        "model_name": "XL_sd_xl_base_1.0",
        "hash": "31e35c80fc",
        "sha256": None,
        "filename": "/srv/models/XL/sd_xl_base_1.0.safetensors",
        "config": None,
    },
    {
        "title": "dreamlike.ckpt",
        "model_name": "dreamlike",
        "hash": None,
        "sha256": None,
        "filename": r"C:\models\dreamlike.ckpt",
        "config": None,
    },
)
LOADED = "v1-5-pruned-emaonly"
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M")
MEMORY_WORD = "[memory]"
FAILS_WORD = "[fails]"
"""A prompt with one of these words ends in a fault of the server, the first for want of memory."""
MOST_FINISHED = 16

Check = Callable[[Any], bool]


def integer(low: int, high: int, step: int = 1) -> Check:
    return lambda value: type(value) is int and low <= value <= high and value % step == 0


def number(low: float, high: float) -> Check:
    return lambda value: type(value) in {int, float} and low <= value <= high


def text(value: Any) -> bool:
    return type(value) is str


def boolean(value: Any) -> bool:
    return type(value) is bool


def texts(value: Any) -> bool:
    return type(value) is list and all(type(each) is str for each in value)


def table(value: Any) -> bool:
    return type(value) is dict


SIDE = integer(8, 16_384, 8)
DRAW: Mapping[str, Check] = {
    "prompt": text,
    "negative_prompt": text,
    "styles": texts,
    "seed": integer(-1, 2**63),
    "subseed": integer(-1, 2**63),
    "subseed_strength": number(0, 1),
    "sampler_name": text,
    "scheduler": text,
    "batch_size": integer(1, 8),
    "n_iter": integer(1, 100),
    "steps": integer(1, 150),
    "cfg_scale": number(0, 30),
    "distilled_cfg_scale": number(0, 30),
    "width": SIDE,
    "height": SIDE,
    "override_settings": table,
    "override_settings_restore_afterwards": boolean,
    "alwayson_scripts": table,
    "send_images": boolean,
    "save_images": boolean,
    "force_task_id": text,
}
DRAW_NEW: Mapping[str, Check] = {**DRAW, "enable_hr": boolean, "hr_scale": number(1, 4), "hr_upscaler": text}
DRAW_OVER: Mapping[str, Check] = {
    **DRAW,
    "init_images": texts,
    "denoising_strength": number(0, 1),
    "mask": text,
    "mask_blur": integer(0, 64),
    "inpainting_fill": integer(0, 3),
    "inpaint_full_res": boolean,
    "inpaint_full_res_padding": integer(0, 1024),
    "inpainting_mask_invert": integer(0, 1),
    "resize_mode": integer(0, 3),
    "include_init_images": boolean,
}
OVERRIDES = {"sd_model_checkpoint", "forge_additional_modules"}


def detail(message: str, status: int) -> Refusal:
    return Refusal(json_reply({"detail": message}, status=status))


def opened(value: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(base64.b64decode(value.rpartition(",")[2], validate=True)))
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise detail("Invalid encoded image", 500) from cause
    return image


class SDWebUISimulator(Simulator):
    """`key` is shown as Basic where it has a colon (`--api-auth`), else as Bearer (a proxy); `None` takes anybody.

    `grid` puts a grid before several pictures, as the option `return_grid` does. `data_urls` prefixes the base64.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        dialect: Dialect = "a1111",
        grid: bool = False,
        data_urls: bool = False,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.dialect = dialect
        self.grid = grid
        self.data_urls = data_urls
        self._image_bytes = image_bytes
        self.loaded = LOADED
        self.info = True
        self.stop_after: int | None = None
        """An interrupt after so many pictures."""
        self.current: str | None = None
        """The task that is drawn now."""
        self.share = 0.45
        """How far it is."""
        self.interrupts = 0
        self.masks: list[Image.Image] = []

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path in {"/sdapi/v1/txt2img", "/sdapi/v1/img2img"}

    def error_body(self, status: int) -> dict[str, Any]:
        return {"detail": f"Simulated failure {status}."}

    def empty_body(self) -> dict[str, Any]:
        return {"images": [], "parameters": {}, "info": "{}"}

    def unreadable(self, message: str) -> Refusal:
        return self._invalid("body", message, "json_invalid")

    def _invalid(self, name: str, message: str, kind: str = "type_error") -> Refusal:
        return Refusal(json_reply({"detail": [{"loc": ["body", name], "msg": message, "type": kind}]}, status=422))

    async def answer(self, call: Call) -> Reply:
        self._authorize(call.exchange.headers)
        match call.method, call.path:
            case "POST", "/sdapi/v1/txt2img":
                return self._drawn(call, DRAW_NEW)
            case "POST", "/sdapi/v1/img2img":
                return self._drawn(call, DRAW_OVER)
            case "GET", "/sdapi/v1/sd-models":
                return json_reply(CHECKPOINTS)
            case "GET", "/sdapi/v1/progress":
                return json_reply(self._progress())
            case "POST", "/internal/progress" if self.dialect != "sdnext":
                return self._task(call)
            case "POST", "/sdapi/v1/interrupt":
                self.interrupts += 1
                self.current = None
                return Reply(status=204) if self.dialect == "sdnext" else json_reply({})
            case _, "/sdapi/v1/txt2img" | "/sdapi/v1/img2img" | "/sdapi/v1/sd-models":
                raise detail("Method Not Allowed", 405)
            case _:
                raise detail("Not Found", 404)

    def _authorize(self, headers: Mapping[str, str]) -> None:
        if self._key is None:
            return
        basic = f"Basic {base64.b64encode(self._key.encode()).decode()}"
        if headers.get("authorization") != (basic if ":" in self._key else f"Bearer {self._key}"):
            raise detail("Incorrect username or password", 401)

    def _progress(self) -> dict[str, Any]:
        busy = self.current is not None
        state = {"job": self.current or "", "job_count": int(busy), "job_no": 0, "sampling_step": 9}
        return {"progress": 0.45 if busy else 0, "eta_relative": 3.2, "state": state, "current_image": None}

    def _task(self, call: Call) -> Reply:
        if not call.fields.keys() <= {"id_task", "id_live_preview", "live_preview"} or "id_task" not in call.fields:
            raise self._invalid("id_task", "Field required", "missing")
        active = call.fields["id_task"] == self.current
        shown = None
        if active and call.fields.get("live_preview", True):
            shown = f"data:image/png;base64,{base64.b64encode(picture(64, 64, 'png')).decode()}"
        said = {"active": active, "queued": False, "completed": False, "live_preview": shown, "textinfo": "Waiting..."}
        return json_reply({**said, "progress": self.share if active else None, "eta": 3.2 if active else None})

    def _drawn(self, call: Call, checks: Mapping[str, Check]) -> Reply:
        fields = self._checked(call, checks)
        size = (fields.get("width", 512), fields.get("height", 512))
        if "init_images" in checks:
            self._check_pictures(fields)
        self._fail(fields)
        checkpoint = fields.get("override_settings", {}).get("sd_model_checkpoint")
        if checkpoint is not None:
            self._load(checkpoint)
        count = fields.get("batch_size", 1) * fields.get("n_iter", 1)
        drawn = [self._picture(size, call, number) for number in range(count)][: self.stop_after]
        first = int(self.grid and count > 1)
        shown = [picture(size[0] * 2, size[1], "png")] * first + drawn
        prefix = "data:image/png;base64," if self.data_urls else ""
        body = {
            "images": [prefix + base64.b64encode(content).decode() for content in shown],
            "parameters": {"prompt": fields.get("prompt", ""), "init_images": None},
            "info": self._info(fields, size, count, first) if self.info else "",
        }
        return json_reply(body, outputs=tuple(drawn))

    def _picture(self, size: tuple[int, int], call: Call, number: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        return stamped(picture(*size, "png"), f"call {call.exchange.number}, picture {number}")

    def _info(self, fields: Mapping[str, Any], size: tuple[int, int], count: int, first: int) -> str:
        seed = fields.get("seed", -1)
        seed = 1234 if seed == -1 else seed
        info = {
            "seed": seed,
            "all_seeds": [seed + number for number in range(count)],
            "all_prompts": [fields.get("prompt", "")] * count,
            "width": size[0],
            "height": size[1],
            "index_of_first_image": first,
            "sd_model_name": self.loaded,
        }
        return msgspec.json.encode(info).decode()

    def _checked(self, call: Call, checks: Mapping[str, Check]) -> dict[str, Any]:
        if call.content_type != "application/json":
            raise self._invalid("body", "value is not a valid dict")
        if call.exchange.query:
            raise self._invalid("query", "no query is taken")
        for name, value in call.fields.items():
            if name not in checks:
                raise self._invalid(name, "extra fields not permitted", "value_error.extra")
            if not checks[name](value):
                raise self._invalid(name, "value is not valid")
        if call.fields.get("sampler_name", SAMPLERS[0]) not in SAMPLERS:
            raise detail("Sampler not found", 404)
        if not call.fields.get("override_settings", {}).keys() <= OVERRIDES:
            raise self._invalid("override_settings", "unknown setting")
        return call.fields

    def _check_pictures(self, fields: Mapping[str, Any]) -> None:
        if not fields.get("init_images"):
            raise detail("Init image not found", 404)
        for each in fields["init_images"]:
            opened(each)
        if "mask" in fields:
            mask = opened(fields["mask"])
            if mask.mode != "L":
                raise self._invalid("mask", "a grey picture is expected")
            self.masks.append(mask)

    def _fail(self, fields: Mapping[str, Any]) -> None:
        trace = 'Traceback (most recent call last):\n  File "/home/ann/webui/modules/api.py", line 1'
        for word, kind, message in (
            (MEMORY_WORD, "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
            (FAILS_WORD, "RuntimeError", f"cannot open /home/ann/webui/models/vae.pt\n{trace}"),
        ):
            if word in fields.get("prompt", ""):
                body = {"error": kind, "detail": "", "body": "", "errors": message}
                raise Refusal(json_reply(body, status=500))

    def _load(self, wanted: str) -> None:
        """Load a checkpoint; one that is not there is passed over without a word, as the real servers do."""
        for each in CHECKPOINTS:
            if wanted in {each["title"], each["model_name"], each["hash"]} or wanted in str(each["filename"]):
                self.loaded = str(each["model_name"])


def main() -> None:
    parser = argument_parser(__doc__, port=9123)
    parser.add_argument("--dialect", choices=("a1111", "forge", "sdnext"), default="a1111")
    options = parser.parse_args()

    def make() -> Simulator:
        return SDWebUISimulator(key=options.key, dialect=options.dialect, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        keys = (
            f"\n    keys: [{{name: main, value: {msgspec.json.encode(options.key).decode()}}}]" if options.key else ""
        )
        return f"providers:\n  sdwebui:\n    base_url: {base_url}{keys}\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
