"""Which addresses a webhook may be sent to, and that no other is ever dialled."""

import asyncio
import socket
from contextlib import aclosing, suppress

import httpcore
import pytest
from pydantic import ValidationError
from receivers import endpoint, receiving, replying

from worker.addresses import is_allowed
from worker.sender import Sender

PRIVATE = [
    *("10.0.0.1", "10.255.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"),
    *("::1", "fe80::1", "febf::1", "fc00::1", "fdff::1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
]
NEVER = [
    *("0.0.0.1", "0.255.255.255", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.0.8"),
    *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "ff02::1", "fec0::1"),
    *("2001::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "3fff:fff::1"),
    *("4000::1", "1fff::1", "::ffff:0.0.0.0", "::ffff:100.64.0.1", "::ffff:224.0.0.1"),
]
PUBLIC = [
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.0.3.0", "192.88.98.255", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2606:4700::1111", "2001:200::1", "2001:4860::8888", "2003::1", "3ffe::1", "::ffff:1.1.1.1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address):
    assert is_allowed(address, private=False)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_allowed_only_when_the_endpoint_says_so(address):
    assert not is_allowed(address, private=False)
    assert is_allowed(address, private=True)


@pytest.mark.parametrize("address", NEVER)
def test_reserved_shared_multicast_and_translated_addresses_are_never_allowed(address):
    assert not is_allowed(address, private=False)
    assert not is_allowed(address, private=True)


def test_a_link_local_address_with_a_zone_is_judged_without_it():
    assert is_allowed("fe80::1%eth0", private=True)
    assert not is_allowed("fe80::1%eth0", private=False)


# What is dialled


@pytest.fixture
def dialled(monkeypatch):
    """The addresses that a connection was tried to. Public ones are as good as closed."""
    addresses = []
    connect = httpcore.AnyIOBackend.connect_tcp

    async def dial(backend, host, port, **options):
        addresses.append(host)
        if is_allowed(host, private=False):
            raise httpcore.ConnectError
        return await connect(backend, host, port, **options)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", dial)
    return addresses


class Door:
    """Listens on loopback and lets nobody in, so that who knocked can be counted."""

    def __init__(self):
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self.sockets[0].getsockname()[1]
        with suppress(OSError):  # no IPv6 here, or its port is taken
            self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))

    def knocks(self):
        count = 0
        for listening in self.sockets:
            listening.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    listening.accept()[0].close()
                    count += 1
        return count


@pytest.fixture
def door():
    door = Door()
    yield door
    for listening in door.sockets:
        listening.close()


def to_loopback(host, port):
    """Numbers as the system reads them; every name is that of this machine."""
    try:
        found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    except OSError:
        return ["127.0.0.1", "::1"]
    return [answer[4][0] for answer in found]


def faults(url, times=1, resolve=to_loopback, deadline_s=5.0, **fields):
    """What became of `times` requests; a URL that no configuration may have is refused."""
    try:
        to = endpoint(url=url, **{"allow_private_networks": False, **fields})
    except ValidationError:
        return ["refused"] * times

    async def post():
        async with aclosing(Sender(to, resolve=resolve, deadline_s=deadline_s)) as sender:
            return [(await sender.send({}, b"{}")).fault for _ in range(times)]

    return asyncio.run(post())


TRICKS = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7F.0x1", "017700000001"),
    *("0177.0.0.1", "0", "0.0.0.00", "127.0.0.1.", "localhost", "LOCALHOST.", "3232235521"),
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]"),
    *("[2001:0:7f00:1::]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]"),
    *("crm.example.com@127.0.0.1", "crm.example.com:443@127.0.0.1", "@127.0.0.1"),
    *("１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "ⅼocalhost", "xn--lcalhost-ksg"),
    *("%31%32%37.0.0.1", "127.0.0.1%2f.example.com", "127.0.0.1%00.example.com"),
    *("crm.example.com\\@127.0.0.1", "127.0.0.1\\.example.com", "127.0.0.1\t", "127.0.0.1 "),
    *("crm.example.com#@127.0.0.1", "crm.example.com?@127.0.0.1", "169.254.169.254", "127.0.0.1&"),
]


@pytest.mark.parametrize("host", TRICKS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_private_address_makes_a_connection(scheme, host, door, dialled):
    (fault,) = faults(f"{scheme}://{host}:{door.port}/hook")
    assert fault in ("refused", "blocked")
    assert (dialled, door.knocks()) == ([], 0)


@pytest.mark.parametrize("address", PRIVATE + NEVER)
def test_a_name_of_an_address_that_is_not_allowed_makes_no_connection(address, dialled):
    for answer in ([address], ["1.1.1.1", address], [address, "2606:4700::1111"]):
        assert faults("https://crm.example.com/", resolve=lambda *_, is_=answer: is_) == ["blocked"]
    assert dialled == []


def test_a_public_address_is_dialled_and_the_next_one_when_it_refuses(dialled):
    two = ["1.1.1.1", "2606:4700::1111"]
    assert faults("https://crm.example.com/", resolve=lambda *_: two) == ["connect"]
    assert dialled == two


def test_a_name_that_turns_to_a_private_address_later_is_blocked_then(door, dialled):
    answers = iter([["1.1.1.1"], ["127.0.0.1"]])
    url = f"http://crm.example.com:{door.port}/"
    assert faults(url, 2, lambda *_: next(answers)) == ["connect", "blocked"]
    assert (dialled, door.knocks()) == (["1.1.1.1"], 0)


def test_a_redirect_to_a_private_address_leads_nowhere(door, dialled):
    with receiving() as receiver:
        receiver.reply = replying(307, Location=f"http://127.0.0.1:{door.port}/")
        assert faults(receiver.url, allow_private_networks=True) == [None]
    assert (dialled, door.knocks()) == (["127.0.0.1"], 0)


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_of_the_environment_get_nothing(scheme, door, dialled, monkeypatch):
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{door.port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    assert faults(f"{scheme}://crm.example.com/", resolve=lambda *_: ["1.1.1.1"]) == ["connect"]
    assert (dialled, door.knocks()) == (["1.1.1.1"], 0)


def test_clear_text_is_refused_unless_the_endpoint_allows_it(door):
    assert faults(f"http://127.0.0.1:{door.port}/", allow_http=False) == ["refused"]
    assert door.knocks() == 0


def test_a_door_hears_who_knocks(door, dialled):
    url = f"http://127.0.0.1:{door.port}/"
    assert faults(url, deadline_s=0.05, allow_private_networks=True) == ["deadline"]
    assert (dialled, door.knocks()) == (["127.0.0.1"], 1)
