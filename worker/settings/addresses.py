"""The rules for web addresses in the configuration."""

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


def check_address(url: str, *, plain: bool, query: bool) -> str:
    """`url`, or a ValueError that says what is wrong with it and quotes nothing of it: it may
    carry a secret. `plain` allows http, `query` allows a query."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected https://host…")
    if "@" in parts.netloc:
        raise ValueError("expected no user name or password in the address")
    if parts.scheme == "http" and not plain:
        raise ValueError("expected https:// (allow_http = true sends in clear text)")
    if parts.fragment or (parts.query and not query):
        raise ValueError("expected no query or fragment")
    return url


def is_loopback(url: str) -> bool:
    """Whether the host of `url` is this machine by its very name or number."""
    host = _split(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> str:
    """Scheme, host and port: the part of `url` that is no secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _split(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("expected an address without spaces, control or non-ASCII characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("expected https://host or https://host:port") from None
    return parts
