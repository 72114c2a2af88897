"""One `[[sources]]` table: a configured account at one API, and what it may override."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from worker.settings.addresses import check_address, is_loopback
from worker.settings.table import Name, Table, matching
from worker.settings.timing import Timing

_LARGEST_PAGE = {"gestal": 1000, "aeontel": 100}
_CREDENTIALS = {"email": "gestal", "password": "gestal", "token": "aeontel"}
# What tells installs apart, whose they are and when they began and ended: without it a redacted row
# would be another install, or no install at all.
_TIMES = {"installedAt", "lastUpgradedAt", "deletedAt", "createdAt", "updatedAt"}
_NEEDED = {
    "gestal": {"cloud_id", "created_at", "updated_at", "tenant", "site"},
    "aeontel": {"id", "integrationId", "workspaceId", *_TIMES},
}

Id = Annotated[str, Field(coerce_numbers_to_str=True, min_length=1)]
JsonPath = Annotated[
    str, AfterValidator(matching(r"[^.\s]+(\.[^.\s]+)*", "a path such as variables.api_key"))
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class SourceSchedule(Table):
    """What a source overrides of `[schedule]`."""

    incremental: Timing | None = None
    full: Timing | None = None


class SourceGuard(Table):
    """What a source overrides of `[deletion_guard]`."""

    min_rows: Count | None = None
    max_share: Share | None = None
    max_count: Count | None = None


class Source(Table):
    """One configured account at one API."""

    name: Name
    # These two stand before what depends on them: a validator sees the fields above its own.
    dialect: Literal["gestal", "aeontel"]
    allow_http: bool = False
    base_url: str
    email: str | None = Field(None, validate_default=True)
    password: SecretStr | None = Field(None, validate_default=True)
    token: SecretStr | None = Field(None, validate_default=True)
    integrations: tuple[Id, ...] = ()
    page_size: int | None = None
    requests_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    max_concurrency: Annotated[int, Field(ge=1, le=32)] = 4
    redact: tuple[JsonPath, ...] = ()
    ignore: tuple[JsonPath, ...] = ()
    schedule: SourceSchedule = SourceSchedule()
    deletion_guard: SourceGuard = SourceGuard()

    @field_validator("base_url")
    @classmethod
    def _reachable_in_private(cls, url: str, info: ValidationInfo) -> str:
        plain = info.data.get("allow_http", True) or is_loopback(url)
        return check_address(url, plain=plain, query=False).rstrip("/")

    @field_validator("email", "password", "token")
    @classmethod
    def _not_empty(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        if value is not None and not len(value):
            raise ValueError("expected a value, but it is empty")
        return value

    @field_validator("email", "password", "token", mode="before")
    @classmethod
    def _belongs_to_dialect(cls, value: Any, info: ValidationInfo) -> Any:
        dialect, owner = info.data.get("dialect"), _CREDENTIALS[str(info.field_name)]
        if value is not None and dialect not in (None, owner):
            raise ValueError(f"does not belong to a {dialect} source")
        if value is None and dialect == owner:
            raise ValueError(f"missing: a {dialect} source logs in with it")
        return value

    @field_validator("ignore")
    @classmethod
    def _leaves_something(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in paths:
            raise ValueError("`*` would ignore every change; name the paths that do not count")
        return paths

    @field_validator("redact")
    @classmethod
    def _spares_what_is_needed(
        cls, paths: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        needed = _NEEDED.get(info.data.get("dialect", ""), set())
        for path in paths:
            if path == "*" or path in needed:
                raise ValueError(f"`{path}` must stay: installs and their state are told by it")
        return paths

    @field_validator("page_size")
    @classmethod
    def _granted(cls, size: int | None, info: ValidationInfo) -> int | None:
        dialect = info.data.get("dialect")
        if size is not None and dialect and not 1 <= size <= _LARGEST_PAGE[dialect]:
            raise ValueError(f"expected 1 to {_LARGEST_PAGE[dialect]} for a {dialect} source")
        return size
