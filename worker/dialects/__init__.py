"""How each platform talks: from what is wanted to a Request, from a body to a Page; all pure."""

from typing import Any, Final, Literal, Protocol

from worker.dialects import aeontel, gestal
from worker.models import Ask, Install, Integration, Page, Request

Paging = Literal["numbered", "keyset"]


class Dialect(Protocol):
    """What a module of this package provides."""

    @property
    def ID(self) -> str: ...
    @property
    def PAGING(self) -> Paging: ...
    @property
    def MAX_PAGE_SIZE(self) -> int: ...
    @property
    def PENALTY_S(self) -> float | None: ...
    @property
    def ACCEPT(self) -> str: ...
    @property
    def NEWEST_FIRST(self) -> tuple[str, ...]: ...

    def login(self) -> Request | None: ...
    def read_token(self, body: bytes) -> str: ...
    def request(self, scope: str, ask: Ask) -> Request: ...
    def read(self, scope: str, ask: Ask, body: bytes) -> Page: ...
    def install(self, payload: Any, integration_id: str | None) -> Install: ...
    def integration(self, payload: Any) -> Integration: ...


_DIALECTS: Final[dict[str, Dialect]] = {"gestal": gestal, "aeontel": aeontel}


def named(name: str) -> Dialect:
    """The dialect that the configuration calls `name`."""
    return _DIALECTS[name]
