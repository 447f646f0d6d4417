"""The documentation says what the program does: pages, tables, links, examples, and each command of the README."""

import ast
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from PIL import Image

from safelight import client, config
from safelight.adapters.providers._catalogue import extend, read_price
from safelight.adapters.providers._registry import load_providers
from safelight.cli.app import app
from safelight.domain.errors import ProviderError, UnsupportedFeature
from safelight.wiring import provider_settings
from tests import models_page, providers_matrix, settings_page
from tests.acceptance.processes import COMMAND, WAIT_S, Gateway, environment, gateway, safelight

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
SOURCE = ROOT / "src" / "safelight"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_POLL_S = 0.05

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def first_cells(text: str) -> set[str]:
    """Everything in backticks in the first column of a table."""
    cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


class TestGeneratedPages:
    async def test_models_are_those_of_the_catalogue(self) -> None:
        assert (DOCS / "models.md").read_text(encoding="utf-8") == await models_page.page(), (
            "run `python -m tests.models_page > docs/models.md`"
        )

    @pytest.mark.parametrize("name", load_providers())
    async def test_a_provider_does_what_its_rows_say(self, name: str) -> None:
        section = providers_matrix.written((DOCS / "providers.md").read_text(encoding="utf-8"))[1]
        for row in await providers_matrix.rows(load_providers()[name]):
            assert row in section, "run `python -m tests.providers_matrix`"

    def test_settings_are_those_that_there_are(self) -> None:
        assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page.page(), (
            "run `python -m tests.settings_page > docs/settings.md`"
        )


class TestSettingsExamples:
    @pytest.fixture(autouse=True)
    def _own_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            if name.startswith("SAFELIGHT_"):
                monkeypatch.delenv(name)
        for page in PAGES:
            for name in re.findall(r"env\.([A-Z0-9_]+)", "".join(blocks(page, "yaml"))):
                monkeypatch.setenv(name, "a-made-up-but-long-random-phrase")

    @staticmethod
    def load(text: str, folder: Path) -> config.Settings:
        path = folder / "safelight.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path, {}, {})

    @every_page
    def test_can_be_used(self, page: Path, tmp_path: Path) -> None:
        modules = load_providers()
        for text in blocks(page, "yaml"):
            settings = self.load(text, tmp_path)
            for name, entry in settings.providers.items():
                said = provider_settings(name, entry)
                module = modules[said.type]
                module.read_options(said)
                if said.base_url or module.base_url:
                    module.settle(said)
                extend((), [{"operations": ["image_generation"], **model} for model in said.models], where=name)
            for name, price in settings.prices.items():
                read_price(price, where=name)

    def test_the_worked_one_shows_the_defaults(self, tmp_path: Path) -> None:
        (example,) = blocks(DOCS / "settings.md", "yaml")
        settings = self.load(example, tmp_path)
        plain = config.Settings()
        assert (settings.server, settings.storage, settings.jobs) == (plain.server, plain.storage, plain.jobs)
        assert settings.log == plain.log
        openai = settings.providers["openai"]
        assert [key.name for key in openai.keys] == ["main", "spare"]
        assert openai.base_url == load_providers()["openai"].base_url
        beside = {"keys": openai.keys, "base_url": openai.base_url}
        assert openai == config.ProviderEntrySettings.model_validate(beside)

    def test_every_option_of_a_provider_is_explained(self) -> None:
        told = (DOCS / "providers.md").read_text(encoding="utf-8")
        unexplained = {
            f"{name}: {option}"
            for name, module in load_providers().items()
            for option in module.options.__struct_fields__
            if not re.search(rf"\b{option}\b", told)
        }
        assert not unexplained


class TestWebhooks:
    def test_the_receiver_takes_what_a_gateway_sends(self, tmp_path: Path) -> None:
        (program,) = blocks(DOCS / "webhooks.md", "python")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert "9000" in program
        with gateway(tmp_path) as served:
            endpoint = {
                "name": "orders",
                "url": f"http://127.0.0.1:{port}/",
                "events": ["async_job.completed"],
                "allow_private_network": True,
                "retry_backoff_initial_seconds": 1,
            }
            secret = self.post(f"{served.url}/api/webhooks", endpoint)["secret"]
            receiver = subprocess.Popen(
                [sys.executable, "-c", program.replace("9000", str(port))],
                env=environment(WEBHOOK_SECRET=secret),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            with receiver:
                try:
                    order = {"model": "builtin/sketch", "prompt": "a kite", "size": "16x16"}
                    job = self.post(
                        f"{served.url}/v1/async/images/generations", order, **{"x-bf-async-webhook": "orders"}
                    )
                    assert receiver.stdout is not None
                    assert receiver.stdout.readline().split() == ["async_job.completed", job["id"]]
                finally:
                    receiver.kill()

    @staticmethod
    def post(url: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own gateway
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310 - as above
            answered: dict[str, Any] = json.load(answer)
            return answered


class TestErrorCodes:
    @staticmethod
    def written_out() -> Iterator[str]:
        """The codes of job errors that are spelled out where they arise."""
        for path in [*SOURCE.glob("application/*.py"), SOURCE / "domain" / "plan.py", SOURCE / "domain" / "batch.py"]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg in {"code", "provider_code"}:
                    value = node.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value

    @staticmethod
    def of_classes() -> Iterator[str]:
        yield UnsupportedFeature.code
        waiting = list(ProviderError.__subclasses__())
        while waiting:
            found = waiting.pop()
            waiting += found.__subclasses__()
            yield found.code

    def test_are_those_that_a_job_can_end_with(self) -> None:
        documented = first_cells(section(DOCS / "contract.md", "When a job fails"))
        assert documented == {*self.written_out(), *self.of_classes()}


class TestCommandLine:
    @staticmethod
    def commands() -> Iterator[tuple[str, Any]]:
        waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
        while waiting:
            path, command = waiting.pop()
            inner = getattr(command, "commands", {})
            waiting += [(f"{path} {name}".strip(), found) for name, found in inner.items()]
            if not inner or not path:
                yield path or "safelight", command

    def test_every_command_stands_in_the_table(self) -> None:
        text = (DOCS / "cli.md").read_text(encoding="utf-8")
        assert first_cells(text[: text.index("\n## ")]) == {path for path, _ in self.commands()} - {"safelight"}

    def test_every_option_stands_beside_its_commands(self) -> None:
        rows = re.findall(r"^\| (`-.*?) \| (.*?) \|", section(DOCS / "cli.md", "Options"), re.MULTILINE)
        documented = {
            (tuple(re.findall(r"`([^`]+)`", options)), command)
            for options, commands in rows
            for command in re.findall(r"`([^`]+)`", commands)
        }
        assert documented == {
            (tuple(parameter.opts), path)
            for path, command in self.commands()
            for parameter in command.params
            if parameter.param_type_name == "option"
        }


class TestCommandLinePage:
    """The transcripts of commands that end by themselves, run in a folder of their own; ids, times and durations differ."""

    PAGE = DOCS / "cli.md"
    VARIABLE: ClassVar[Mapping[str, str]] = {
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ": "TIME",
        r"duration_s [0-9.e-]+": "duration_s N",
    }

    def shown(self, title: str) -> list[tuple[list[str], str]]:
        """The commands of a section, and all that each prints."""
        found = []
        for _, text in [block for block in _BLOCK.findall(section(self.PAGE, title)) if block[0] == "console"]:
            for part in re.split(r"^\$ safelight ", text, flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                found.append((shlex.split(command), printed.strip()))
        return found

    def plain(self, text: str) -> str:
        for pattern, word in self.VARIABLE.items():
            text = re.sub(pattern, word, text)
        return text.strip()

    def run(self, arguments: list[str], cwd: Path) -> str:
        """All that it prints, in the order of the page: what is said beside the output, output, errors."""
        done = safelight(*arguments, cwd=cwd)
        accepted = "".join(line for line in done.stderr.splitlines(keepends=True) if " accepted" in line)
        errors = done.stderr.replace(accepted, "") if accepted else done.stderr
        code = f"[exit code {done.returncode}]" if done.returncode else ""
        return self.plain(f"{accepted}{done.stdout}{errors}{code}")

    def test_batch(self, tmp_path: Path) -> None:
        ((_, lines),) = [block for block in _BLOCK.findall(section(self.PAGE, "batch")) if block[0] == "json"]
        (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
        for arguments, printed in self.shown("batch"):
            assert self.run(arguments, tmp_path) == self.plain(printed)
        assert len(list((tmp_path / "out").glob("*.png"))) == 3

    def test_watch(self, tmp_path: Path) -> None:
        chain = ("--model", "builtin/fail-model", "--fallback", "builtin/sketch")
        made = json.loads(safelight("generate", "a castle", *chain, "--json", cwd=tmp_path).stdout)
        ((arguments, printed),) = [found for found in self.shown("jobs") if found[0][1] == "watch"]
        assert self.run([*arguments[:2], made["id"]], tmp_path) == self.plain(printed)

    def test_ends_and_new_beginnings(self, tmp_path: Path) -> None:
        safelight("generate", "a castle", "--model", "builtin/fail-moderation", cwd=tmp_path)
        (job,) = json.loads(safelight("jobs", "list", "--json", cwd=tmp_path).stdout)["jobs"]
        for (*command, _), printed in self.shown("Ends and new beginnings"):
            assert self.run([*command, job["id"]], tmp_path) == self.plain(printed)
            if command[1] == "retry":
                safelight("jobs", "fetch", job["id"], cwd=tmp_path)


class TestLinks:
    @every_page
    def test_lead_somewhere(self, page: Path) -> None:
        broken = []
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in self.anchors(target)):
                broken.append(link)
        assert not broken

    @every_page
    def test_files_that_are_named_exist(self, page: Path) -> None:
        named = re.findall(r"`((?:docs|src|tests|benchmarks|\.ci)/[^`]*)`", prose(page))
        plain = [path for path in named if not re.search(r"[<>*…{]|NAME", path)]
        assert [path for path in plain if not (ROOT / path).exists()] == []

    @every_page
    def test_targets_of_make_exist(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = re.findall(r"(?:`|^ {4}|\$ )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= targets

    @every_page
    def test_no_path_of_somebodys_machine(self, page: Path) -> None:
        assert re.findall(r"(?<![\w.:/])/(?:tmp|home|root|work|Users|var)/\S*", page.read_text(encoding="utf-8")) == []

    @staticmethod
    def anchors(page: Path) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway, started as the README does it with a key."""
    ((command, _),) = [found for found in TestReadme.transcripts("serve") if "KEY=" in found[0]]
    arguments, variables = TestReadme.arguments(command)
    assert arguments == ["serve"]
    with gateway(tmp_path_factory.mktemp("readme"), env=variables) as it:
        yield it


class TestGuides:
    """The commands of the guides, one after the other, each job id in the place of the one that is shown."""

    @pytest.mark.parametrize("name", ["first-ten-minutes.md", "api.md"])
    def test_commands_work(self, name: str, running: Gateway) -> None:
        job_id, ran = None, 0
        for text in blocks(DOCS / name, "console"):
            for command in re.findall(r"^\$ (curl .*)$", text, re.MULTILINE):
                answer = TestReadme().curl(command, running, job_id)
                body = json.loads(answer) if answer else {}
                assert "is_bifrost_error" not in body, answer
                job_id = body.get("id", job_id) if "status" in body else job_id
                ran += 1
        assert ran >= 3

    def test_the_program_prints_a_picture(self, running: Gateway) -> None:
        (program,) = blocks(DOCS / "first-ten-minutes.md", "python")
        program = program.replace(TestReadme.ADDRESS, running.url)
        printed = TestReadme.run(sys.executable, "-c", program, cwd=running.data_dir.parent)
        assert TestReadme.is_picture(TestReadme().fetched(printed.strip()))


class TestSite:
    def test_every_page_is_in_the_navigation(self) -> None:
        text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        assert {page.name for page in DOCS.glob("*.md")} <= set(re.findall(r"[\w-]+\.md", text))

    @pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
    def test_no_page_links_out_of_the_site(self, page: Path) -> None:
        assert re.findall(r"\]\(\.\./[^)]*\)", prose(page)) == []


class TestReadme:
    """Its commands, with another port and the program of this environment."""

    README = ROOT / "README.md"
    ADDRESS = "http://127.0.0.1:8080"

    @classmethod
    def transcripts(cls, word: str) -> list[tuple[str, list[str]]]:
        """Commands with this word, and what the README says that they print."""
        found = []
        for text in blocks(cls.README, "console"):
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, printed = re.split(r"(?<!\\)\n", part, maxsplit=1)
                if word in re.split(r"[\s/]+", command):
                    found.append((command, printed.splitlines()))
        assert found, f"README.md shows no {word}"
        return found

    @staticmethod
    def arguments(command: str) -> tuple[list[str], dict[str, str]]:
        """What follows `.venv/bin/safelight`, and the variables before it."""
        before, program, after = command.partition(".venv/bin/safelight")
        assert program
        return shlex.split(after, comments=True), dict(word.split("=", 1) for word in shlex.split(before))

    @staticmethod
    def run(*command: str, cwd: Path, **variables: str) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(NO_PROXY="127.0.0.1", **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def is_picture(content: bytes) -> bool:
        with Image.open(BytesIO(content)) as picture:
            picture.load()
            return picture.width == picture.height >= 512

    def fetched(self, link: str) -> bytes:
        with urllib.request.urlopen(link, timeout=WAIT_S) as answer:  # noqa: S310 - our own gateway's link
            content: bytes = answer.read()
            return content

    def curl(self, command: str, where: Gateway, job_id: str | None = None) -> str:
        if shutil.which("curl") is None:
            pytest.fail("curl is missing on this machine; the README's commands need it")
        assert self.ADDRESS in command
        if job_id:
            command = _UUID.sub(job_id, command)
        command = command.replace(self.ADDRESS, where.url)
        return self.run("sh", "-c", command, cwd=where.data_dir.parent)

    def test_curl_submits_and_polls(self, running: Gateway) -> None:
        (submit, printed), (poll, answered) = self.transcripts("curl")
        head, _, accepted = self.curl(submit, running).replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 202"), accepted
        job_id = json.loads(accepted)["id"]
        shown = [line for line in printed if line and "…" not in line]
        assert shown
        assert {_UUID.sub(job_id, line) for line in shown} <= set(head.splitlines())
        assert job_id in head
        assert accepted.startswith(_UUID.sub(job_id, printed[-1]).partition(",")[0])

        ended = time.monotonic() + WAIT_S
        while json.loads(body := self.curl(poll, running, job_id))["status"] != "completed":
            assert time.monotonic() < ended, body
            time.sleep(_POLL_S)
        link = json.loads(body)["result"]["data"][0]["url"]
        assert self.is_picture(self.fetched(link))
        members = re.findall(r'"(\w+)":', " ".join(answered))
        assert all(f'"{name}":' in body for name in members), body
        assert json.loads(body)["status_code"] == 200

    def test_the_openai_client_gets_a_picture(self, running: Gateway) -> None:
        program, _ = blocks(self.README, "python")
        assert self.ADDRESS in program
        program = program.replace(self.ADDRESS, running.url)
        printed = self.run(sys.executable, "-c", program, cwd=running.data_dir.parent)
        assert self.is_picture(self.fetched(printed.strip()))

    def test_our_own_client_gets_a_picture(self, running: Gateway, tmp_path: Path) -> None:
        _, program = blocks(self.README, "python")
        assert self.ADDRESS in program
        told = self.run(sys.executable, "-c", program.replace(self.ADDRESS, running.url), cwd=tmp_path)
        assert told.splitlines()[-2:] == ["completed", "kite.png"]
        assert self.is_picture((tmp_path / "kite.png").read_bytes())

    def test_the_command_line_draws(self, tmp_path: Path) -> None:
        for command, _ in self.transcripts("generate"):
            arguments, _ = self.arguments(command)
            self.run(*COMMAND, *arguments, cwd=tmp_path)
            assert self.is_picture((tmp_path / arguments[-1]).read_bytes())

    def test_a_key_switches_its_provider_on(self, running: Gateway) -> None:
        assert running.process.stdout is not None
        greeting = [running.process.stdout.readline().split() for _ in range(4)]
        assert ["providers", "builtin,", "openai"] in greeting
        asked_for = re.search(r"Then ask for `openai/([^`]+)`", self.README.read_text(encoding="utf-8"))
        assert asked_for
        assert f"| `{asked_for[1]}` " in section(DOCS / "models.md", "`openai`")


class TestClientPage:
    """Each program of the page runs as it stands, with another address."""

    PAGE = DOCS / "client.md"
    ADDRESS = TestReadme.ADDRESS

    @pytest.mark.parametrize(
        ("index", "printed"),
        [
            (0, r"[0-9a-f-]{36}\n"),
            (1, r"(.*\n)*completed .*\nboats/.*-1\.png\nboats/.*-2\.png\nboats/.*-3\.png\n"),
            (2, r"job pending\n(.*\n)*job completed\n(.*\n)*[0-9a-f-]{36} 0\.0\n"),
            (3, r"400 unsupported_feature size\nmoderation_blocked no False\n"),
            (4, r"completed 20\n"),
            (5, r"400\n"),
        ],
    )
    def test_programs_run(self, running: Gateway, tmp_path: Path, index: int, printed: str) -> None:
        program = blocks(self.PAGE, "python")[index].replace(self.ADDRESS, running.url)
        told = TestReadme.run(sys.executable, "-c", program, cwd=tmp_path)
        assert re.fullmatch(printed, told), told
        if index == 0:
            assert TestReadme.is_picture((tmp_path / "kite.png").read_bytes())
        if index == 4:
            assert len(list((tmp_path / "kites").glob("*.png"))) == 20

    def test_all_programs_are_run(self) -> None:
        assert len(blocks(self.PAGE, "python")) == 6

    def test_every_error_is_explained(self) -> None:
        told = prose(self.PAGE)
        errors = [
            name
            for name in client.__all__
            if isinstance(found := getattr(client, name), type) and issubclass(found, Exception)
        ]
        assert [name for name in errors if f"`{name}`" not in told] == []
