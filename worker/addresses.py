"""Which IP addresses a webhook may be sent to (WEBHOOKS.md: where a webhook may go)."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Python's `is_global` lets 192.0.0.8, 64:ff9b::/96, 2002::/16 and more through, hence our own.
_REFUSED_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_PRIVATE_V4 = tuple(
    IPv4Network(block)
    for block in (
        "10.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_PRIVATE_V6 = tuple(IPv6Network(block) for block in ("::1/128", "fc00::/7", "fe80::/10"))


def is_allowed(address: str, *, private: bool) -> bool:
    """Whether a webhook may go to `address`; `private` adds loopback, private and link-local.

    It adds nothing else: what is shared (100.64/10), multicast, reserved, "this host" (0/8, ::),
    for documentation or a translation to IPv4 is never the address of a receiver.
    """
    match ip_address(address):
        case IPv4Address() as v4:
            return _is_allowed_v4(v4, private)
        case IPv6Address(ipv4_mapped=IPv4Address() as v4):
            return _is_allowed_v4(v4, private)
        case IPv6Address() as v6:
            return _is_allowed_v6(v6, private)


def _is_allowed_v4(address: IPv4Address, private: bool) -> bool:
    if private and any(address in block for block in _PRIVATE_V4):
        return True
    return not any(address in block for block in _REFUSED_V4)


def _is_allowed_v6(address: IPv6Address, private: bool) -> bool:
    if private and any(address in block for block in _PRIVATE_V6):
        return True
    return address in _UNICAST_V6 and not any(address in block for block in _REFUSED_V6)
