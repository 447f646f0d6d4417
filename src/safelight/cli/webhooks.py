"""`safelight webhooks`: who is told of jobs, through the administration of a running gateway."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import typer
import uvloop

from safelight.cli import options
from safelight.cli.administration import Administration, Body, asked
from safelight.cli.errand import print_json
from safelight.cli.faults import ExitCode, UsageError, explained, fail, note
from safelight.cli.listen import Listening
from safelight.cli.tables import columns, moment
from safelight.client.errors import Conflict
from safelight.domain.webhook import WebhookEvent

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Say who is told of jobs, and look at what they were told.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name, or its id.")]
Events = Annotated[
    list[WebhookEvent] | None, typer.Option("--event", help="What it hears of; may be repeated. Otherwise the ends.")
]
Headers = Annotated[list[str] | None, typer.Option("--header", help="NAME=VALUE, sent along; may be repeated.")]
IncludeResponse = Annotated[
    bool | None, typer.Option("--include-response/--no-response", help="Send the result or the error along.")
]
IncludeLinks = Annotated[
    bool | None, typer.Option("--include-links/--no-links", help="Send links to the images along.")
]
Private = Annotated[
    bool | None,
    typer.Option("--allow-private-network/--public-only", help="Let it be http, and in your own network."),
]
Disabled = Annotated[bool | None, typer.Option("--disabled/--enabled", help="Send nothing, and refuse its name.")]
MaxRetries = Annotated[int | None, typer.Option(min=0, help="Tries after the first; 0 is the default, three days.")]

_TITLES = ("NAME", "URL", "EVENTS", "STATE", "PENDING", "LAST SUCCESS")
_ATTEMPT_TITLES = ("AT", "EVENT", "JOB", "#", "OUTCOME", "STATUS", "DELIVERY", "ERROR")
_ENDS = [WebhookEvent.COMPLETED.value, WebhookEvent.FAILED.value]
_MOST = 500
_SHOWN_CHARS = 60


@app.command("list")
def list_endpoints(
    search: Annotated[str, typer.Option(help="Part of the name or the address.")] = "",
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List the endpoints."""
    query = urlencode({"search": search, "limit": _MOST})
    body = asked(url, config, data_dir, lambda client: client.ask("GET", f"/webhooks?{query}"))
    if as_json:
        print_json(body)
    elif body["endpoints"]:
        typer.echo(columns([_TITLES, *map(_row, body["endpoints"])]))
    else:
        note("no endpoints: make one with `safelight webhooks create NAME URL`")


@app.command()
def show(
    name: NameArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show an endpoint: its settings, and how it has fared."""
    _tell(asked(url, config, data_dir, lambda client: _found(client, name)), as_json=as_json)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What `x-bf-async-webhook` is to call it.")],
    address: Annotated[str, typer.Argument(metavar="URL", help="Where to post.")],
    event: Events = None,
    header: Headers = None,
    include_response: IncludeResponse = None,
    include_links: IncludeLinks = None,
    allow_private_network: Private = None,
    disabled: Disabled = None,
    max_retries: MaxRetries = None,
    virtual_key: Annotated[str | None, typer.Option(help="Id of the virtual key whose jobs alone may name it.")] = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make an endpoint, and show its secret this once."""
    said = _said(event, header, include_response, include_links, allow_private_network, disabled, max_retries)
    owner = {"virtual_key_id": virtual_key} if virtual_key else {}
    wanted = {"name": name, "url": address, "events": _ENDS, **said, **owner}
    _tell_secret(
        asked(url, config, data_dir, lambda client: client.ask("POST", "/webhooks", wanted)),
        as_json=as_json,
    )


@app.command()
def update(
    name: NameArgument,
    new_name: Annotated[str | None, typer.Option(help="What to call it from now on.")] = None,
    address: Annotated[str | None, typer.Option(help="Where to post from now on.")] = None,
    event: Events = None,
    header: Headers = None,
    include_response: IncludeResponse = None,
    include_links: IncludeLinks = None,
    allow_private_network: Private = None,
    disabled: Disabled = None,
    max_retries: MaxRetries = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Change what is named, and leave the rest. `--header` replaces all headers."""
    said = _said(event, header, include_response, include_links, allow_private_network, disabled, max_retries)
    renamed = {member: value for member, value in (("name", new_name), ("url", address)) if value is not None}

    async def change(client: Administration) -> Body:
        endpoint = await _found(client, name)
        return await client.ask("PUT", _path(endpoint), {**endpoint, **said, **renamed})

    _tell(asked(url, config, data_dir, change), as_json=as_json)


@app.command()
def delete(
    name: NameArgument, url: options.Url = None, config: options.Config = None, data_dir: options.DataDir = None
) -> None:
    """Delete an endpoint; what it has not been told yet, it never will be."""

    async def remove(client: Administration) -> Body:
        return await client.ask("DELETE", _path(await _found(client, name)))

    asked(url, config, data_dir, remove)
    note(f"{name} is deleted")


@app.command()
def rotate(
    name: NameArgument,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Seconds for which the former secret signs as well; otherwise a day.")
    ] = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a new secret, and show it this once."""
    wanted = {} if overlap is None else {"overlap_seconds": overlap}

    async def change(client: Administration) -> Body:
        return await client.ask("POST", f"{_path(await _found(client, name))}/rotate-secret", wanted)

    _tell_secret(asked(url, config, data_dir, change), as_json=as_json)


@app.command("test")
def call_once(
    name: NameArgument,
    event: Annotated[WebhookEvent | None, typer.Option(help="What to tell of.")] = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Call the receiver once, about a job that there is not. Exit code 1 unless it took the call."""
    wanted = {"event": event.value} if event else {}

    async def call(client: Administration) -> Body:
        return await client.ask("POST", f"{_path(await _found(client, name))}/test", wanted)

    body = asked(url, config, data_dir, call)
    if as_json:
        print_json(body)
    if not body["delivered"]:
        raise fail(f"{name} did not take it: {_line(body['error'])}", ExitCode.FAILED)
    note(f"{name} took it: HTTP {body['receiver_status_code']}")


@app.command()
def resume(
    name: NameArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """End a pause: what the endpoint is owed is delivered now."""

    async def end(client: Administration) -> Body:
        return await client.ask("POST", f"{_path(await _found(client, name))}/resume")

    _tell(asked(url, config, data_dir, end), as_json=as_json)


@app.command()
def deliveries(
    name: NameArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=_MOST, help="How many at most.")] = 20,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List what was sent to an endpoint, each attempt, the newest first."""

    async def read(client: Administration) -> Body:
        return await client.ask("GET", f"{_path(await _found(client, name))}/deliveries?limit={limit}")

    body = asked(url, config, data_dir, read)
    if as_json:
        print_json(body)
    elif body["deliveries"]:
        typer.echo(columns([_ATTEMPT_TITLES, *map(_attempt_row, body["deliveries"])]))
    else:
        note(f"nothing was sent to {name} yet")


@app.command()
def redeliver(
    name: Annotated[str, typer.Argument(metavar="NAME|DELIVERY", help="A delivery or, with --since, an endpoint.")],
    since: Annotated[
        str | None, typer.Option(help="Everything from this time on, such as 2026-11-20T08:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Nothing from this time on; otherwise up to now.")] = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Deliver again: one event, or what happened in a span of time."""
    with explained():
        if until is not None and since is None:
            raise UsageError("--until needs --since")
        span = {member: _time(text) for member, text in (("since", since), ("until", until)) if text is not None}

    async def queue(client: Administration) -> Body:
        if not span:
            return await client.ask("POST", f"/webhooks/deliveries/{quote(name, safe='')}/redeliver")
        return await client.ask("POST", f"{_path(await _found(client, name))}/redeliver", span)

    body = asked(url, config, data_dir, queue)
    if as_json:
        print_json(body)
    else:
        note(f"queued: {body['count'] if span else body['webhook_id']}")


@app.command()
def listen(
    port: Annotated[int, typer.Option("--port", "-p", help="Port to listen on; 0 takes a free one.")] = 0,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="SAFELIGHT_WEBHOOK_SECRET", help="Verify with it. Otherwise an endpoint is made meanwhile."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What that endpoint is called.")] = "listen",
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Be a receiver on this machine: verify what comes, and print it, until Ctrl-C."""

    async def receive(client: Administration | None) -> None:
        async with Listening(port=port, secret=secret, as_json=as_json) as listening:
            if client is None:
                note(f"Listening on {listening.url}")
                await listening.for_ever()
                return
            endpoint = await _own_endpoint(client, name, listening.url)
            listening.secret = endpoint["secret"]
            note(f"Listening on {listening.url}; a job tells of itself with the header x-bf-async-webhook: {name}")
            try:
                await listening.for_ever()
            finally:
                await client.ask("DELETE", _path(endpoint["endpoint"]))

    try:
        if secret is not None:
            uvloop.run(receive(None))
        else:
            asked(url, config, data_dir, receive)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


async def _own_endpoint(client: Administration, name: str, address: str) -> Body:
    """Make the endpoint of a listener, in the place of one that an earlier listener has left behind."""
    wanted = {
        "name": name,
        "url": address,
        "events": [event.value for event in WebhookEvent],
        "allow_private_network": True,
    }
    with contextlib.suppress(Conflict):
        return await client.ask("POST", "/webhooks", wanted)
    left = await _found(client, name)
    if not left["url"].startswith("http://127.0.0.1:"):
        raise UsageError(f"there is an endpoint named {name!r} already: choose another name with --name")
    await client.ask("DELETE", _path(left))
    return await client.ask("POST", "/webhooks", wanted)


async def _found(client: Administration, name: str) -> Body:
    """The endpoint of that name or id; everybody's before those of virtual keys. Raises `NotFound`, `UsageError`."""
    query = urlencode({"search": name, "limit": _MOST})
    listed = (await client.ask("GET", f"/webhooks?{query}"))["endpoints"]
    named = [endpoint for endpoint in listed if endpoint["name"] == name]
    found = [endpoint for endpoint in named if "virtual_key_id" not in endpoint] or named
    if len(found) > 1:
        raise UsageError(f"several virtual keys have an endpoint named {name!r}: give its id")
    return found[0] if found else await client.ask("GET", f"/webhooks/{quote(name, safe='')}")


def _path(endpoint: Body) -> str:
    return f"/webhooks/{endpoint['id']}"


def _said(
    events: Sequence[WebhookEvent] | None,
    headers: Sequence[str] | None,
    include_response: bool | None,
    include_links: bool | None,
    allow_private_network: bool | None,
    disabled: bool | None,
    max_retries: int | None,
) -> Body:
    """The settings that the command line names."""
    with explained():
        members = {
            "events": [event.value for event in events] if events else None,
            "headers": dict(map(_header, headers)) if headers else None,
            "include_response": include_response,
            "include_links": include_links,
            "allow_private_network": allow_private_network,
            "disabled": disabled,
            "max_retries": max_retries,
        }
    return {name: value for name, value in members.items() if value is not None}


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--header {text!r} must be NAME=VALUE")
    return name.strip(), value


def _time(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time; one looks like 2026-11-20T08:00:00Z") from error
    return found.astimezone().isoformat()


def _tell(endpoint: Body, *, as_json: bool) -> None:
    if as_json:
        print_json(endpoint)
    else:
        typer.echo(_lines(_facts(endpoint)))


def _tell_secret(body: Body, *, as_json: bool) -> None:
    if as_json:
        print_json(body)
    else:
        typer.echo(_lines({**_facts(body["endpoint"]), "secret": body["secret"]}))
        note("The secret is not shown again.")


def _lines(facts: Mapping[str, str]) -> str:
    return columns([(f"{name}:", value) for name, value in facts.items() if value])


def _facts(endpoint: Body) -> dict[str, str]:
    flags = ("include_response", "include_links", "allow_private_network", "disabled")
    numbers = {name: str(value) for name, value in endpoint.items() if name.endswith(("_retries", "_seconds", "_kbs"))}
    return {
        "endpoint": endpoint["id"],
        "name": endpoint["name"],
        "url": endpoint["url"],
        "events": ", ".join(endpoint["events"]),
        "state": _state(endpoint),
        "headers": ", ".join(endpoint.get("headers", ())),
        "with": ", ".join(flag for flag in flags if endpoint[flag]),
        "virtual key": endpoint.get("virtual_key_id", ""),
        **numbers,
        "pending": str(endpoint["pending_deliveries"]),
        "last success": _moment(endpoint.get("last_success_at")),
        "last failure": _moment(endpoint.get("last_failure_at")),
        "both sign until": _moment(endpoint.get("former_secret_until")),
    }


def _state(endpoint: Body) -> str:
    if endpoint["disabled"]:
        return "disabled"
    if "paused_at" in endpoint:
        return f"paused since {moment(endpoint['paused_at'])}: {endpoint['pause_reason']}"
    failures = endpoint["consecutive_failures"]
    return f"failing ({failures})" if failures else "on"


def _moment(text: str | None) -> str:
    return moment(text) if text else ""


def _row(endpoint: Body) -> tuple[str, ...]:
    return (
        endpoint["name"],
        endpoint["url"],
        ",".join(event.removeprefix("async_job.") for event in endpoint["events"]),
        _state(endpoint),
        str(endpoint["pending_deliveries"]),
        moment(endpoint.get("last_success_at")),
    )


def _attempt_row(attempt: Body) -> tuple[str, ...]:
    return (
        moment(attempt["created_at"]),
        attempt["event"].removeprefix("async_job."),
        attempt["async_job_id"],
        str(attempt["attempt_no"]),
        attempt["outcome"],
        str(attempt.get("status_code", "-")),
        attempt["webhook_id"],
        _line(attempt.get("error", "-")),
    )


def _line(text: str) -> str:
    """A receiver's words, as far as they fit into a line of a table."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _SHOWN_CHARS else f"{printable[:_SHOWN_CHARS]}…"
