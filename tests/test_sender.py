"""What the sender does on the wire, against a receiver on 127.0.0.1."""

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
from contextlib import aclosing
from dataclasses import replace

import pytest
from receivers import endpoint, receiving, replying

from worker.outbound import Answer
from worker.sender import Sender

HEADERS = {"content-type": "application/json", "webhook-id": "evt_1"}


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


def send(url, body=b"{}", times=1, headers=HEADERS, allowed=True, **options):
    """The answers to `times` requests on one sender, one after the other."""

    async def post():
        to = endpoint(url=url, allow_private_networks=allowed)
        async with aclosing(Sender(to, **options)) as sender:
            return [await sender.send(headers, body) for _ in range(times)]

    answers = asyncio.run(post())
    return answers[0] if times == 1 else answers


def test_the_body_and_headers_arrive_as_they_are(receiver):
    assert send(receiver.url + "?key=1", b'{"a": 1}').status == 204
    (received,) = receiver.received
    assert received.path == "/hook?key=1"
    assert received.body == b'{"a": 1}'
    assert received.headers == {
        "host": receiver.url.removeprefix("http://").removesuffix("/hook"),
        "content-length": "8",
        **HEADERS,
    }


def test_an_answer_is_kept_with_its_retry_after(receiver):
    receiver.reply = replying(503, b"busy", Retry_After="30")
    answer = send(receiver.url)
    origin = receiver.url.removesuffix("/hook")
    expected = Answer(503, None, f"{origin} answered 503", "30", b"busy")
    assert replace(answer, phases={}) == expected


def test_connections_are_kept_for_the_next_request(receiver):
    ports = set()

    def reply(handler, received):
        ports.add(handler.client_address)
        replying(204)(handler, received)

    receiver.reply = reply
    assert [answer.status for answer in send(receiver.url, times=3)] == [204] * 3
    assert len(ports) == 1


def test_a_redirect_is_not_followed(receiver):
    receiver.reply = replying(302, Location=receiver.url)
    assert send(receiver.url).status == 302
    assert len(receiver.received) == 1


def test_proxies_of_the_environment_are_ignored(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(receiver.url).status == 204


def test_a_receiver_that_does_not_answer_ends_at_the_deadline(receiver):
    receiver.reply = receiver.hang
    assert send(receiver.url, deadline_s=0.05).fault == "deadline"


def test_a_body_that_drips_ends_at_the_deadline(receiver):
    def drip(handler, _received):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not receiver.released.wait(0.01):
            handler.wfile.write(b".")

    receiver.reply = drip
    answer = send(receiver.url, deadline_s=0.1)
    assert (answer.status, answer.fault) == (None, "deadline")


def test_of_a_body_that_never_ends_four_kibibytes_are_read(receiver):
    def flood(handler, _received):
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 10_000)

    receiver.reply = flood
    answer = send(receiver.url)
    assert (answer.status, answer.body) == (200, b"x" * 4096)


def test_a_compressed_answer_is_not_unzipped(receiver):
    bomb = gzip.compress(b"\0" * 1_000_000)
    receiver.reply = replying(200, bomb, Content_Encoding="gzip")
    assert send(receiver.url).body == bomb[:4096]


def test_an_answer_that_is_no_http_is_a_protocol_fault(receiver):
    def gibberish(handler, _received):
        handler.close_connection = True
        handler.wfile.write(b"hello\r\n\r\n")

    receiver.reply = gibberish
    assert send(receiver.url).fault == "protocol"


def test_an_answer_cut_short_is_a_fault_whatever_its_status(receiver):
    def cut(handler, _received):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")

    receiver.reply = cut
    answer = send(receiver.url)
    assert (answer.status, answer.fault) == (None, "protocol")


def test_a_connection_that_breaks_is_a_reset(receiver):
    def reset(handler, _received):
        handler.close_connection = True
        linger = b"\x01\0\0\0\0\0\0\0"  # close with RST
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    receiver.reply = reset
    assert send(receiver.url).fault in ("reset", "protocol")


def test_a_closed_port_is_a_connect_fault():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    assert send(url).fault == "connect"


def test_errors_quote_neither_path_nor_query(receiver):
    receiver.reply = replying(500)
    failing = send(receiver.url + "/T0/B0/hush?token=hush")
    refused = send("http://127.0.0.1:1/T0/B0/hush?token=hush")
    for answer in (failing, refused):
        assert "hush" not in repr(answer)
        assert "http://127.0.0.1" in answer.error


# Where a webhook may go


def named(receiver):
    """The receiver's address under a name."""
    return receiver.url.replace("127.0.0.1", "crm.example.com")


def test_a_private_address_is_blocked_unless_the_endpoint_allows_it(receiver):
    answer = send(receiver.url, allowed=False)
    assert answer.fault == "blocked"
    assert receiver.received == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"])
def test_another_spelling_of_a_private_address_is_blocked_too(receiver, host):
    assert send(receiver.url.replace("127.0.0.1", host), allowed=False).fault == "blocked"
    assert receiver.received == []


def test_one_bad_address_among_good_ones_blocks_the_name(receiver):
    mixed = lambda _host, _port: ["127.0.0.1", "100.64.0.1"]  # noqa: E731 - a fake
    assert send(named(receiver), resolve=mixed).fault == "blocked"
    assert receiver.received == []


def test_the_connection_goes_to_the_address_that_was_checked(receiver):
    answers = iter([["127.0.0.1"], ["100.64.0.1"]])
    assert send(named(receiver), resolve=lambda _host, _port: next(answers)).status == 204
    assert receiver.received[0].headers["host"].startswith("crm.example.com:")


def test_the_next_address_is_tried_when_one_refuses(receiver):
    two = lambda _host, _port: ["127.0.0.2", "127.0.0.1"]  # noqa: E731 - a fake
    assert send(named(receiver), resolve=two).status == 204


def test_a_name_without_addresses_is_a_dns_fault(receiver):
    def unknown(_host, _port):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert send(named(receiver), resolve=unknown).fault == "dns"
    assert send(named(receiver), resolve=lambda _host, _port: []).fault == "dns"


def test_a_host_that_is_no_name_is_a_dns_fault():
    assert send("http://" + "a" * 70 + ".example.com/").fault == "dns"


def test_an_address_that_cannot_be_used_is_blocked():
    assert send("http://xn--\x2d.example.com/").fault in ("blocked", "dns")


# Certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate and key for crm.example.com, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    directory = tmp_path_factory.mktemp("certificate")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    request = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=crm.example.com -addext subjectAltName=DNS:crm.example.com"
    )
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*request.split(), *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def tls_receiver(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with receiving(context) as receiver:
        yield receiver


def to_loopback(_host, _port):
    return ["127.0.0.1"]


def test_an_unknown_certificate_is_a_tls_fault(tls_receiver):
    answer = send(named(tls_receiver), resolve=to_loopback)
    assert answer.fault == "tls"
    assert "self-signed certificate" in answer.error
    assert tls_receiver.received == []


def test_the_certificate_is_that_of_the_name_though_the_address_is_pinned(
    tls_receiver, certificate
):
    trusting = ssl.create_default_context(cafile=certificate[0])
    options = {"resolve": to_loopback, "trust": lambda: trusting}
    assert send(named(tls_receiver), **options).status == 204
    other = named(tls_receiver).replace("crm.", "erp.")
    assert send(other, **options).fault == "tls"
