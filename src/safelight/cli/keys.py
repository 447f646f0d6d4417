"""`safelight keys`: who may call, through the administration of a running gateway."""

import re
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from safelight.cli import options
from safelight.cli.administration import Administration, Body, asked
from safelight.cli.errand import print_json
from safelight.cli.faults import ExitCode, UsageError, explained, fail, note
from safelight.cli.tables import columns, moment
from safelight.domain.job import Priority

app = typer.Typer(no_args_is_help=True, help="Say who may call, what they may use and what it may cost.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The key's name, or its id.")]

_TITLES = ("NAME", "STATE", "READS", "TEAM", "MAY USE", "LEFT", "EXPIRES")
_PER = re.compile(r"([0-9]+(?:\.[0-9]+)?)/([1-9][0-9]{0,3}[mhdwMY])")
_MOST = 500


@app.command("list")
def list_keys(
    search: Annotated[str, typer.Option(help="Part of the name.")] = "",
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List the virtual keys."""
    query = urlencode({"search": search, "limit": _MOST})
    body = asked(url, config, data_dir, lambda client: client.ask("GET", f"/virtual-keys?{query}"))
    if as_json:
        print_json(body)
    elif body["virtual_keys"]:
        typer.echo(columns([_TITLES, *map(_row, body["virtual_keys"])]))
    else:
        note("no virtual keys: make one with `safelight keys create NAME`")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    team: Annotated[str | None, typer.Option(help="Name of its team.")] = None,
    customer: Annotated[str | None, typer.Option(help="Name of its customer, where it has no team.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="PROVIDER or PROVIDER/MODEL that it may use; may be repeated. Else all.")
    ] = None,
    budget: Annotated[list[str] | None, typer.Option(help="Dollars a period, such as 50/1M; may be repeated.")] = None,
    requests: Annotated[str | None, typer.Option(help="Requests a period, such as 100/1m.")] = None,
    images: Annotated[str | None, typer.Option(help="Images a period, such as 1000/1d.")] = None,
    running: Annotated[int | None, typer.Option(min=1, help="Jobs at work at a time.")] = None,
    waiting: Annotated[int | None, typer.Option(min=0, help="Jobs that wait at a time.")] = None,
    priority: Annotated[Priority, typer.Option(help="Bulk lets others go first.")] = Priority.INTERACTIVE,
    weight: Annotated[int, typer.Option(min=1, help="Jobs that start for each one of a key of weight 1.")] = 1,
    expires: Annotated[str | None, typer.Option(help="When it ends, such as 2027-01-01T00:00:00Z.")] = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a virtual key and print it: nobody can show it again."""
    with explained():
        limits: dict[str, Any] = {"running": running, "waiting": waiting}
        for unit, text in (("requests", requests), ("images", images)):
            if text is not None:
                most, period = _per(text)
                limits[unit] = {"max": int(most), "period": period}
        wanted = {
            "name": name,
            "description": description,
            "team": team,
            "customer": customer,
            "budgets": [{"limit_usd": most, "period": period} for most, period in map(_per, budget or [])],
            "limits": limits,
            "priority": priority.value,
            "weight": weight,
            "expires_at": expires,
            **({"providers": [_rule(text) for text in allow]} if allow else {}),
        }
    _tell_reading(asked(url, config, data_dir, lambda client: client.ask("POST", "/virtual-keys", wanted)), as_json)


@app.command()
def show(
    name: NameArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show a virtual key: what it may use, and what is left of its budgets and limits."""
    _tell(asked(url, config, data_dir, lambda client: _found(client, name)), as_json)


@app.command()
def rotate(
    name: NameArgument,
    overlap: Annotated[int, typer.Option(min=0, help="Seconds for which the former reading holds as well.")] = 3600,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Give a virtual key a new reading and print it."""

    async def change(client: Administration) -> Body:
        key = await _found(client, name)
        return await client.ask("POST", f"/virtual-keys/{key['id']}/rotate", {"overlap_seconds": overlap})

    _tell_reading(asked(url, config, data_dir, change), as_json)


@app.command()
def revoke(
    name: NameArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Switch a virtual key off; its jobs go on."""

    async def change(client: Administration) -> Body:
        return await client.ask("POST", f"/virtual-keys/{(await _found(client, name))['id']}/revoke")

    _tell(asked(url, config, data_dir, change), as_json)


async def _found(client: Administration, name: str) -> Body:
    query = urlencode({"search": name, "limit": _MOST})
    listed = (await client.ask("GET", f"/virtual-keys?{query}"))["virtual_keys"]
    found: Body | None = next((key for key in listed if key["name"] == name), None)
    if found is not None:
        return found
    everything = (await client.ask("GET", f"/virtual-keys?limit={_MOST}"))["virtual_keys"]
    named: Body | None = next((key for key in everything if key["id"] == name), None)
    if named is None:
        raise fail(f"there is no virtual key {name!r}", ExitCode.FAILED)
    return named


def _per(text: str) -> tuple[float, str]:
    """Read an amount a period. Raises `UsageError`."""
    found = _PER.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no amount a period; one looks like 50/1M: m, h, d, w, M and Y are the periods")
    return float(found[1]), found[2]


def _rule(text: str) -> Body:
    provider, _, model = text.partition("/")
    return {"provider": provider, "models": [model or "*"]}


def _tell(key: Body, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    facts = {
        "key": key["name"],
        "id": key["id"],
        "description": key["description"],
        "state": _state(key),
        "reads": _endings(key),
        "team": key["team"],
        "customer": key["customer"],
        "may use": _uses(key),
        "priority": f"{key['priority']}, weight {key['weight']}",
        "expires": key["expires_at"] and moment(key["expires_at"]),
        "created": moment(key["created_at"]),
    }
    lines = [columns([(f"{name}:", str(value)) for name, value in facts.items() if value])]
    if key["counted"]:
        lines += ["counted:", columns([_counted(each) for each in key["counted"]], indent="  ")]
    typer.echo("\n".join(lines))


def _tell_reading(body: Body, as_json: bool) -> None:
    if as_json:
        print_json(body)
        return
    note(f"Virtual key {body['virtual_key']['name']}. Nobody can show it again:")
    typer.echo(body["key"])


def _row(key: Body) -> tuple[str, ...]:
    left = ", ".join(f"{_amount(each, 'left')}/{each['period']}" for each in key["counted"])
    return (
        key["name"],
        _state(key),
        _endings(key),
        key["team"] or "-",
        _uses(key),
        left or "-",
        moment(key["expires_at"]),
    )


def _state(key: Body) -> str:
    return "active" if key["active"] else "off"


def _endings(key: Body) -> str:
    return ", ".join(f"…{reading['ending']}" for reading in key["readings"]) or "-"


def _uses(key: Body) -> str:
    rules = [f"{rule['provider']}/{model}" for rule in key["providers"] for model in rule["models"]]
    return "everything" if rules == ["*/*"] else ", ".join(rules) or "nothing"


def _counted(counted: Body) -> tuple[str, ...]:
    kind = "calendar" if counted["calendar"] else "rolling"
    held = f"{_amount(counted, 'held')} held" if counted["held"] else ""
    return (
        f"{_amount(counted, 'left')} left of {_amount(counted, 'limit')}",
        counted["unit"],
        f"a {kind} {counted['period']}",
        held,
    )


def _amount(counted: Body, name: str) -> str:
    return f"${counted[name]:.2f}" if counted["unit"] == "usd" else str(counted[name])
