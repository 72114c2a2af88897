"""Which addresses a webhook may be sent to."""

import pytest

from worker.addresses import is_allowed

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
