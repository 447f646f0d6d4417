"""The settings: one YAML (or JSON) file, `SAFELIGHT_*` variables above it. The only reader of the environment."""

import ipaddress
import os
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_json
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from safelight.domain.budget import Period
from safelight.domain.errors import ConfigurationError
from safelight.domain.job import Priority
from safelight.domain.plan import OnUnknown
from safelight.domain.strength import weakness
from safelight.domain.webhook import DEFAULTS, MOST, WebhookEvent

_ENV_PREFIX = "env."
_USUAL_SECRETS = {"admin_key": "SAFELIGHT_ADMIN_KEY", "encryption_key": "SAFELIGHT_ENCRYPTION_KEY"}
"""Members of `auth` with the variables that they are taken from where nothing is said of them."""
_OTHER_VARIABLES = (
    "SAFELIGHT_CONFIG",
    "SAFELIGHT_URL",
    "SAFELIGHT_API_KEY",
    "SAFELIGHT_WEBHOOK_SECRET",
    *_USUAL_SECRETS.values(),
)

PeriodText = Annotated[str, AfterValidator(lambda text: Period(text=text).text)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _limit(name: str, meaning: str) -> Any:
    """One of the numbers of a webhook endpoint; 0 stands for the default."""
    return Field(0, ge=0, le=getattr(MOST, name), description=f"{meaning}; 0 is {getattr(DEFAULTS, name)}.")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Role(StrEnum):
    """What a process of several does."""

    ALL = "all"
    API = "api"
    WORKER = "worker"


class ServerSettings(_Section):
    """Where the gateway listens and what it takes."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_url: str | None = Field(
        None, pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$", description="How clients reach the gateway, for links."
    )
    max_body: ByteSize = Field(ByteSize(100_000_000), gt=0, description="Largest request body.")
    max_image: ByteSize = Field(ByteSize(50_000_000), gt=0, description="Largest input image.")
    max_pixels: int = Field(64_000_000, gt=0, description="Most pixels of an input image.")
    body_timeout: Seconds = Field(60, description="Seconds that a client may pause within a request body.")
    role: Role = Field(Role.ALL, description="What this process does: all, only the api, or only the jobs (worker).")
    protect_metrics: bool = Field(False, description="Whether /metrics asks for the admin key, as /api does.")
    private_hosts: frozenset[str] = Field(
        frozenset(), description="Names and addresses of your own network that links of images may lead to."
    )
    unprotected: bool = Field(False, description="Allow listening beyond loopback although nobody is asked for a key.")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class StorageSettings(_Section):
    """Where jobs and images are kept."""

    data_dir: Path = Field(Path(".safelight"), description="Folder of the database and the images.")
    database_url: SecretStr | None = Field(
        None,
        description="Postgres that several processes share, postgresql://…; without it, a file in the data folder.",
    )
    connections: int = Field(
        10, gt=1, description="Most connections of one process to Postgres, besides the listening one."
    )
    blob_url: str | None = Field(
        None,
        description="Bucket for images: s3://…, gs://… or az://…, or a folder; without it, one in the data folder.",
    )
    blob_options: dict[str, str] = Field(
        default_factory=dict,
        description="What the bucket needs besides the vendor's usual variables, such as endpoint and region.",
    )
    blob_links: bool = Field(
        True, description="Send those who fetch an image to the bucket, by a signed link, where it can make one."
    )

    @property
    def shown_database_url(self) -> str | None:
        """Where the database is, without who may use it."""
        if self.database_url is None:
            return None
        url = urlsplit(self.database_url.get_secret_value())
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url


class JobSettings(_Section):
    """How jobs live."""

    result_ttl: int = Field(3600, gt=0, description="Seconds that a result is kept after the job's end.")
    batch_ttl: int = Field(86_400, gt=0, description="The same for the lines of a batch, each from its own end.")
    max_result_ttl: int = Field(604_800, gt=0, description="Most seconds that a caller may ask for.")
    concurrency: int = Field(256, gt=0, description="Jobs at work at a time, over all providers.")
    batch_share: float = Field(
        0.5, gt=0, le=1, description="Share of a provider's slots that lines of batches may wait for or hold."
    )
    max_waiting: int = Field(100_000, gt=0, description="Jobs that may wait in all; more are refused with 503.")
    on_unknown: OnUnknown = Field(
        OnUnknown.FAIL, description="After a call that may have been charged: fail, retry or fallback."
    )
    shutdown_grace: float = Field(30, ge=0, description="Seconds that running calls get at a shutdown.")
    deadline: int = Field(86_400, gt=0, description="Seconds after which a job that has not ended fails.")
    lease: float = Field(
        15, ge=1, description="Seconds after which a worker that is not heard of loses its jobs to others."
    )
    sweep_interval: Seconds = Field(30, description="Seconds between two sweeps of expired jobs.")
    webhook_history: int = Field(2_592_000, gt=0, description="Seconds that webhook deliveries are remembered.")
    max_output_image: ByteSize = Field(ByteSize(256_000_000), gt=0, description="Largest image taken from a provider.")

    @model_validator(mode="after")
    def _ttl_within_its_maximum(self) -> "JobSettings":
        if self.result_ttl > self.max_result_ttl:
            raise ValueError("result_ttl must not be above max_result_ttl")
        return self


class AuthSettings(_Section):
    """Who may call, and who may administrate."""

    required: bool = Field(False, description="Whether nobody may submit without a virtual key.")
    admin_key: SecretStr | None = Field(
        None, description="Key of the administrator; otherwise that of SAFELIGHT_ADMIN_KEY. Without one, /api is local."
    )
    encryption_key: SecretStr | tuple[SecretStr, ...] | None = Field(
        None,
        description="Encrypts stored secrets; otherwise that of SAFELIGHT_ENCRYPTION_KEY, or a file in the data folder."
        " Of several the first encrypts, all decrypt.",
    )

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """All of them, the one that encrypts first."""
        keys = self.encryption_key or ()
        return tuple(key.get_secret_value() for key in (keys if isinstance(keys, tuple) else (keys,)))

    @model_validator(mode="after")
    def _not_guessed(self) -> "AuthSettings":
        keys = {"admin_key": self.admin_key.get_secret_value() if self.admin_key else None}
        keys |= {f"encryption_key[{index}]": key for index, key in enumerate(self.encryption_keys)}
        for name, key in keys.items():
            if key is not None and (fault := weakness(key)):
                raise ValueError(f"{name} {fault}")
        return self


class BudgetSettings(_Section):
    """How much may be spent in a period."""

    limit_usd: Decimal = Field(ge=0, le=1_000_000_000, description="US dollars.")
    period: PeriodText = Field(description="Such as 1h, 1d, 1w, 1M, 1Y.")
    calendar: bool = Field(False, description="From midnight UTC, Monday, the first; otherwise it rolls.")


class RateSettings(_Section):
    """How many of something there may be in a period."""

    max: int = Field(ge=0, description="How many.")
    period: PeriodText = Field(description="Such as 1m, 1h, 1d.")
    calendar: bool = Field(False, description="From midnight UTC, Monday, the first; otherwise it rolls.")


class LimitSettings(_Section):
    """How much may be asked for."""

    requests: RateSettings | None = Field(None, description="Requests in a period.")
    images: RateSettings | None = Field(None, description="Images in a period.")


class KeyLimitSettings(LimitSettings):
    """How much one virtual key may ask for."""

    running: int | None = Field(None, gt=0, description="Jobs at work at a time; more wait.")
    waiting: int | None = Field(None, ge=0, description="Jobs that wait at a time; more are refused.")


class _HolderSettings(_Section):
    name: str = Field(min_length=1, max_length=100, description="What it is known by.")
    budgets: tuple[BudgetSettings, ...] = Field((), description="How much may be spent.")
    metadata: dict[str, str] = Field(default_factory=dict, description="Labels of yours.")


class CustomerSettings(_HolderSettings):
    """Whom teams and keys work for."""

    limits: LimitSettings = LimitSettings()


class TeamSettings(_HolderSettings):
    """Virtual keys that belong together."""

    customer: str | None = Field(None, description="The name of its customer.")
    limits: LimitSettings = LimitSettings()


class ProviderRuleSettings(_Section):
    """What a virtual key may use of a provider."""

    provider: str = Field("*", description="The provider entry; * is all.")
    models: tuple[str, ...] = Field(("*",), description="Its models; * is all, [] is none.")
    keys: tuple[str, ...] = Field(("*",), description="Its keys; * is all, [] is none.")


class VirtualKeySettings(_HolderSettings):
    """One key that callers show."""

    value: SecretStr | None = Field(
        None, min_length=8, description="The key, best as env.NAME; left out: made, and shown once."
    )
    description: str = Field("", max_length=1000, description="What it is for.")
    active: bool = Field(True, description="Whether it may be used.")
    expires_at: AwareDatetime | None = Field(None, description="When it ends.")
    team: str | None = Field(None, description="The name of its team.")
    customer: str | None = Field(None, description="The name of its customer, where it has no team.")
    sees_team: bool = Field(False, description="Whether it sees all jobs of its team.")
    providers: tuple[ProviderRuleSettings, ...] = Field(
        (ProviderRuleSettings(),), description="What it may use; [] is nothing."
    )
    limits: KeyLimitSettings = KeyLimitSettings()
    max_cost_per_image_usd: Decimal | None = Field(
        None, gt=0, le=1_000_000, description="What an image is taken to cost where no price is known."
    )
    priority: Priority = Field(Priority.INTERACTIVE, description="interactive, or bulk: lets others go first.")
    weight: int = Field(1, ge=1, le=1000, description="Jobs that start for each one of a key of weight 1.")


class KeySettings(_Section):
    """One key of a provider."""

    name: str = Field("main", min_length=1, max_length=64, description="What the ledger calls it.")
    value: SecretStr = Field(description="The secret, best as env.NAME.")
    weight: float = Field(1, ge=0, description="How often it is drawn beside the others; 0: only if no other can be.")
    models: tuple[str, ...] = Field(("*",), description="Models it may be used for; * is all.")
    concurrency: int | None = Field(None, gt=0, description="Jobs at work with it at a time; null sets no limit.")


class RetrySettings(_Section):
    """How a provider is tried again after an error that cost nothing."""

    max: int = Field(2, ge=0, le=20, description="Tries after the first.")
    initial: float = Field(0.5, ge=0, description="Seconds before the first retry; doubles with each.")
    max_delay: float = Field(30, ge=0, description="Most seconds between two tries.")
    share: float = Field(0.2, ge=0, le=1, description="Share of a minute's calls that may be retries; more must wait.")
    least: int = Field(100, ge=1, description="Retries that a minute may have however few calls there were.")


class BreakerSettings(_Section):
    """When a model of a provider is left alone, because it fails again and again."""

    failures: int = Field(10, ge=0, description="Failures in a row after which a model is not called; 0: never.")
    open_for: Seconds = Field(10, description="Seconds until one call goes to see whether it is back.")


class ProviderEntrySettings(BaseModel):
    """One entry under `providers:`. Other members are the provider's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str | None = Field(None, description="Which provider module serves it; by default its own name.")
    enabled: bool = Field(True, description="Whether it is on.")
    keys: tuple[KeySettings, ...] = Field((), description="Its keys.")
    base_url: str | None = Field(None, description="Where its API is.")
    concurrency: int = Field(64, gt=0, description="Jobs at work there at a time.")
    timeout: Seconds = Field(300, description="Seconds for one call.")
    connect_timeout: Seconds = Field(10, description="Seconds to connect.")
    retries: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    repeatable: bool | None = Field(None, description="Whether a repeated call costs nothing.")
    callbacks: bool = Field(False, description="Be called back when work is over; needs server.public_url.")
    models: tuple[dict[str, Any], ...] = Field((), description="Models that extend or override the catalogue's.")
    budgets: tuple[BudgetSettings, ...] = Field((), description="How much may be spent there, by all together.")
    limits: LimitSettings = LimitSettings()

    @property
    def options(self) -> Mapping[str, Any]:
        """The provider's own settings."""
        return self.model_extra or {}


class WebhookSettings(_Section):
    """One entry under `webhooks:`; the gateway's own API makes others."""

    name: str = Field(min_length=1, description="What `x-bf-async-webhook` calls it.")
    url: str = Field(min_length=1, description="Where to post.")
    events: tuple[WebhookEvent, ...] = Field(
        (WebhookEvent.COMPLETED, WebhookEvent.FAILED), min_length=1, description="What it hears of."
    )
    secret: SecretStr | None = Field(None, description="Signs what is sent: whsec_ and base64, best as env.NAME.")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="Sent along.")
    include_response: bool = Field(False, description="Send the result or the error along where it is small enough.")
    include_links: bool = Field(False, description="Send links to the images along.")
    allow_private_network: bool = Field(False, description="Let it be http://, and in your own network.")
    disabled: bool = Field(False, description="Send nothing, and refuse jobs that name it.")
    max_retries: int = _limit("max_retries", "Tries after the first")
    retry_backoff_initial_seconds: int = _limit("retry_backoff_initial_seconds", "Before the first retry; doubles")
    retry_backoff_max_seconds: int = _limit("retry_backoff_max_seconds", "Most between two tries")
    attempt_timeout_seconds: int = _limit("attempt_timeout_seconds", "For one call")
    max_concurrent_deliveries: int = _limit("max_concurrent_deliveries", "Calls at a time, of each process")
    max_response_payload_kbs: int = _limit("max_response_payload_kbs", "Largest body that holds a result, in KiB")


class LogSettings(_Section):
    """What is logged, and how."""

    format: Literal["auto", "console", "json"] = Field(
        "auto", description="One JSON object a line, or for reading; auto: for reading where it goes to a terminal."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    access: Literal["all", "changes", "none"] = Field(
        "changes", description="Requests that get a line; changes leaves out reads that went well within a second."
    )
    prompts: bool = Field(False, description="Whether prompts are logged.")


class TraceSettings(_Section):
    """Where traces go. Needs the extra otel."""

    endpoint: str | None = Field(
        None, pattern=r"^https?://", description="Address for OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces."
    )
    share: float = Field(1.0, ge=0, le=1, description="Share of traces that are kept; one that a caller began is.")
    service: str = Field("safelight", min_length=1, description="What this gateway is called in them.")


class Settings(BaseSettings):
    """Everything has a default."""

    model_config = SettingsConfigDict(env_prefix="SAFELIGHT_", env_nested_delimiter="__", frozen=True, extra="forbid")

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    jobs: JobSettings = JobSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
    traces: TraceSettings = TraceSettings()
    providers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")], ProviderEntrySettings] = Field(
        default_factory=dict, description="Where images come from."
    )
    prices: dict[Annotated[str, Field(pattern=r"^[^/]+/.+$")], dict[str, Any]] = Field(
        default_factory=dict, description="What PROVIDER/MODEL costs; adds to the prices that ship and overrides them."
    )
    webhooks: tuple[WebhookSettings, ...] = Field((), description="Who may be told of jobs, by name.")
    customers: tuple[CustomerSettings, ...] = Field((), description="Whom teams and keys work for.")
    teams: tuple[TeamSettings, ...] = Field((), description="Virtual keys that belong together.")
    virtual_keys: tuple[VirtualKeySettings, ...] = Field((), description="Keys that callers show.")


def load(path: Path | None, overrides: Mapping[str, Any], usual_keys: Mapping[str, str]) -> Settings:
    """Read the settings; `overrides` (from the command line) win over all.

    Without a file, each provider of `usual_keys` (name to variable) whose variable is set is switched on. Raises
    `ConfigurationError` with what to change.
    """
    path = settings_file(path)
    missing: dict[str, str] = {}
    said = _resolved(_file(path), "", missing) if path else _usual_providers(usual_keys)
    _refuse_missing_keys(missing)
    said = _with_usual_secrets(said)
    try:
        return _above(said)(**overrides)
    except ValidationError as error:
        raise ConfigurationError(_explained(error, path)) from error


def settings_file(path: Path | None) -> Path | None:
    """The file that the settings come from: the one asked for, else that of SAFELIGHT_CONFIG, else none."""
    usual = os.environ.get("SAFELIGHT_CONFIG")
    return path or (Path(usual) if usual else None)


def usual_gateway() -> str | None:
    """The gateway that commands talk to when they are told nothing else: that of SAFELIGHT_URL."""
    return os.environ.get("SAFELIGHT_URL") or None


def usual_api_key() -> str | None:
    """The virtual key that commands show to a gateway: that of SAFELIGHT_API_KEY."""
    return os.environ.get("SAFELIGHT_API_KEY") or None


def _above(said: Mapping[str, Any]) -> type[Settings]:
    """Settings whose values come from the constructor, else from variables, else from `said`."""

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(said))

    return Loaded


def _file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {path} is not YAML: {_where_broken(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"the settings file {path} must hold names with values")
    return content


def _where_broken(error: Exception) -> str:
    """Where and why, without the line itself: a key may stand in it."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or 'it cannot be read'}"


def _resolved(value: Any, where: str, missing: dict[str, str]) -> Any:
    """Put the values of variables in the place of `env.NAME`; an unset one counts as not said."""
    if isinstance(value, dict):
        return {name: _resolved(member, f"{where}.{name}".lstrip("."), missing) for name, member in value.items()}
    if isinstance(value, list):
        return [_resolved(member, f"{where}[{index}]", missing) for index, member in enumerate(value)]
    if isinstance(value, str) and value.startswith(_ENV_PREFIX):
        name = value.removeprefix(_ENV_PREFIX)
        if not os.environ.get(name):
            missing[where] = name
            return None
        return os.environ[name]
    return value


def _refuse_missing_keys(missing: Mapping[str, str]) -> None:
    for where, variable in missing.items():
        if where.startswith("providers."):
            raise ConfigurationError(
                f"{where}: the environment variable {variable} is not set. Set it, or take this provider out of the "
                "settings; the model builtin/sketch needs no key"
            )
        if where.startswith(("virtual_keys", "webhooks")):
            raise ConfigurationError(f"{where}: the environment variable {variable} is not set")


def _usual_providers(usual_keys: Mapping[str, str]) -> dict[str, Any]:
    found = {
        name: {"keys": [{"name": "main", "value": os.environ[variable]}]}
        for name, variable in usual_keys.items()
        if os.environ.get(variable)
    }
    return {"providers": found} if found else {}


def _with_usual_secrets(said: dict[str, Any]) -> dict[str, Any]:
    usual = {name: os.environ[variable] for name, variable in _USUAL_SECRETS.items() if os.environ.get(variable)}
    auth = said.get("auth") or {}
    if not usual or not isinstance(auth, dict):
        return said
    return {**said, "auth": {**usual, **{name: value for name, value in auth.items() if value is not None}}}


def _explained(error: ValidationError, path: Path | None) -> str:
    source = f"the settings in {path}" if path else "the settings"
    lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)]
    return f"{source} cannot be used:\n  " + "\n  ".join(lines)


def stray_variables() -> list[str]:
    """SAFELIGHT_* variables that are no setting, such as SAFELIGHT_SERVER_PORT with one underscore too few."""
    known = {f"SAFELIGHT_{name.replace('.', '__').upper()}" for name, _, _ in describe()}
    known |= {f"SAFELIGHT_{name.upper()}" for name in Settings.model_fields} | set(_OTHER_VARIABLES)
    ours = (name for name in os.environ if name.upper().startswith("SAFELIGHT_"))
    return sorted(name for name in ours if name.upper() not in known and "PROVIDERS__" not in name.upper())


def describe(model: type[BaseModel] = Settings, prefix: str = "") -> list[tuple[str, str, str]]:
    """Every setting as (name, default, help), for the command line, the documentation and its test."""
    found: list[tuple[str, str, str]] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += describe(inner, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _default(info), info.description or ""))
    if model is Settings:
        found += describe(ProviderEntrySettings, "providers.NAME.")
        found += describe(KeySettings, "providers.NAME.keys[].")
        found += describe(VirtualKeySettings, "virtual_keys[].")
        found += describe(ProviderRuleSettings, "virtual_keys[].providers[].")
        found += describe(BudgetSettings, "virtual_keys[].budgets[].")
        found += describe(RateSettings, "virtual_keys[].limits.requests.")
        found += describe(TeamSettings, "teams[].")
        found += describe(CustomerSettings, "customers[].")
        found += describe(WebhookSettings, "webhooks[].")
    return found


def _default(info: FieldInfo) -> str:
    """As it would stand in the settings file."""
    return "(required)" if info.is_required() else to_json(info.get_default(call_default_factory=True)).decode()
