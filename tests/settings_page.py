"""Writes docs/settings.md from the settings' own descriptions: `python -m tests.settings_page > docs/settings.md`."""

from collections.abc import Iterable, Sequence

import msgspec

from safelight.adapters.providers._registry import load_providers
from safelight.config import describe

Rows = Sequence[tuple[str, str, str]]

_INTRO = """\
# Settings

One YAML (or JSON) file, given with `--config` or `SAFELIGHT_CONFIG`. Everything has a default, so there need not be one:
without a file each provider is on whose usual variable is set, as [providers.md](providers.md) names them, and `builtin`
always is. `safelight settings` prints the tables below; `safelight doctor` says what is wrong with yours. This page is
written by `python -m tests.settings_page > docs/settings.md`, and a test compares the two.

- **Order.** Options of the command line win over variables, and those over the file.
- **Variables.** Two underscores set off sections: `SAFELIGHT_SERVER__PORT=9000` is `server.port`.
- **Secrets.** A value in the file that reads `env.NAME` is taken from the variable `NAME`. One that is not set counts as
  not said; under `providers:` it is refused, so that no provider starts without its key.
- **Sizes** are bytes, or text such as `100MB` and `64MiB`. **Times** are seconds.
- **Mistakes** are told at the start and stop it: unknown names, wrong types, values that do not fit together.

`SAFELIGHT_URL` is no setting of the gateway: it names the one that the [commands](cli.md) talk to.

## An example

What it says of `server`, `storage`, `jobs` and `log`, and of `openai` beside its keys, is the default.

```yaml
server:
  host: 127.0.0.1
  port: 8080                  # 0 takes a free one
  public_url: null            # https://images.example, where clients come by another address
  max_body: 100MB
storage: {data_dir: .safelight}
jobs:
  result_ttl: 3600            # after a job's end
  max_result_ttl: 604800
  concurrency: 256
  on_unknown: fail            # or retry, fallback: after a call that may have been charged
  shutdown_grace: 30
log: {format: auto, level: info}
providers:
  openai:
    keys:
      - {name: main, value: env.OPENAI_API_KEY}
      - {name: spare, value: env.OPENAI_SPARE_KEY, weight: 0, models: [gpt-image-2]}
    base_url: https://api.openai.com/v1
    concurrency: 64
    timeout: 300
    retries: {max: 2, initial: 0.5, max_delay: 30}
    breaker: {failures: 10, open_for: 10}
  gpu-box: {type: openai_compatible, base_url: "http://127.0.0.1:8000/v1"}
prices:
  gpu-box/flux: {per_image_usd: 0.002}     # adds to what ships, and overrides it
webhooks:
  - {name: orders, url: "https://shop.example/hook", events: [async_job.completed, async_job.failed]}
```
"""
_UNKNOWN = """\
What `jobs.on_unknown` decides is told under [Never paid twice without consent](architecture.md#never-paid-twice-without-consent).
"""
_ENTRY = """\
`NAME` is yours to choose; it is the part before the slash in `NAME/MODEL`. Without `type` it is the provider's own name.
`retries` act only on errors that cost nothing. A model's description and a price are explained under
[Models and prices](providers.md#models-and-prices). On SIGHUP a running gateway reads the `keys` anew, and nothing else.
"""
_WEBHOOKS = """\
One entry for each receiver; [webhooks.md](webhooks.md) tells what it is sent. At the start an entry that has changed is
brought into the database under its name, where it takes the place of what the API has made of it. One that is left out is disabled
there. A secret that has changed signs beside the former one for a day.
"""
_OPTIONS = """\
Some types take further members in their entry. [providers.md](providers.md) says what they mean.
"""


def page() -> str:
    """Write the page."""
    rows = describe()
    entry = [row for row in rows if row[0].startswith("providers.NAME.")]
    webhooks = [row for row in rows if row[0].startswith("webhooks[].")]
    sections = [name for name in _sections(rows) if name not in {"providers", "webhooks[]"}]
    parts = [_INTRO]
    for section in sections:
        parts.append(_section(section, [row for row in rows if row[0].startswith(f"{section}.")]))
        parts += [_UNKNOWN] if section == "jobs" else []
    parts.append(_section("Lists", [row for row in rows if "." not in row[0]]))
    parts.append(_section("providers.NAME", entry, _ENTRY))
    parts.append(_section("webhooks", webhooks, _WEBHOOKS))
    parts.append(f"## Options of single types\n\n{_OPTIONS}\n{_table(('type', 'option', 'default'), _options())}")
    return "\n".join(parts)


def _options() -> list[tuple[str, str, str]]:
    """Find the members that the provider modules add to an entry: type, name, default."""
    found = []
    for name, module in sorted(load_providers().items()):
        members = msgspec.structs.fields(module.options)
        found += [(_code(name), _code(member.encode_name), _code(_default(member))) for member in members]
    return found


def _sections(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row[0].partition(".")[0] for row in rows if "." in row[0]))


def _section(title: str, rows: Rows, text: str = "") -> str:
    table = _table(("setting", "default", "meaning"), ((_code(name), _code(value), told) for name, value, told in rows))
    return "\n".join([f"## {title}\n", *([text] if text else []), table])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *rows))


def _code(text: str) -> str:
    return f"`{text}`"


def _default(member: msgspec.structs.FieldInfo) -> str:
    if member.default_factory is not msgspec.NODEFAULT:
        return msgspec.json.encode(member.default_factory()).decode()
    return "(required)" if member.default is msgspec.NODEFAULT else msgspec.json.encode(member.default).decode()


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - it is what this is for
