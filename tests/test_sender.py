"""What the sender does on the wire, against a receiver on 127.0.0.1."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from contextlib import aclosing
from dataclasses import replace
from itertools import chain, islice, repeat

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


# Receivers that take long, or never end


class Pouring:
    """Answers with pieces of bytes until the sender hangs up, and counts what it got rid of."""

    def __init__(self, receiver, pieces, every_s=0.0):
        self.sent, self.ended = 0, threading.Event()
        self.receiver, self.pieces, self.every_s = receiver, pieces, every_s
        receiver.reply = self

    def __call__(self, handler, _received):
        handler.close_connection = True
        # What the kernel keeps of it was not read by anybody.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        try:
            for piece in self.pieces:
                handler.wfile.write(piece)
                self.sent += len(piece)
                if self.every_s and self.receiver.released.wait(self.every_s):
                    return
        except OSError:
            pass
        finally:
            self.ended.set()

    def until_hung_up(self):
        """The bytes that went out before the sender hung up."""
        assert self.ended.wait(HANG_S)
        return self.sent


HANG_S = 30.0  # how long a broken sender may block a test
OK = b"HTTP/1.1 200 OK\r\n"
MOST_READ = 1_000_000  # of an answer without end: buffers of the kernel included


def last_step(answer):
    return list(answer.phases)[-1]


def test_a_receiver_that_does_not_answer_ends_at_the_deadline(receiver):
    receiver.reply = receiver.hang
    answer = send(receiver.url, deadline_s=0.05)
    assert (answer.fault, last_step(answer)) == ("deadline", "wait")


def test_a_name_server_that_does_not_answer_ends_at_the_deadline(receiver):
    answered = threading.Event()

    def hang(_host, _port):
        answered.wait()
        return ["127.0.0.1"]

    answer = send(named(receiver), resolve=hang, deadline_s=0.05)
    assert (answer.fault, list(answer.phases)) == ("deadline", ["dns"])
    # Nor does it keep the process from ending.
    waiting = [thread for thread in threading.enumerate() if thread.name == "resolve"]
    answered.set()
    assert waiting
    assert all(thread.daemon for thread in waiting)
    for thread in waiting:
        thread.join()
    assert receiver.received == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
def test_a_connection_that_is_never_made_ends_at_the_deadline():
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        answer = send(f"http://127.0.0.1:{full.getsockname()[1]}/", deadline_s=0.1)
    assert (answer.fault, list(answer.phases)) == ("deadline", ["dns", "connect"])


def test_a_tls_handshake_that_is_never_answered_ends_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        answer = send(f"https://127.0.0.1:{mute.getsockname()[1]}/", deadline_s=0.1)
    assert (answer.fault, list(answer.phases)) == ("deadline", ["dns", "connect", "tls"])


@pytest.mark.parametrize(
    "pieces",
    [
        repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        chain([OK], repeat(b"x-tar: pit\r\n")),
        chain([OK, b"x-tar: "], repeat(b"p")),
        chain([OK, b"content-length: 1000\r\n\r\n"], repeat(b".")),
        chain([OK, b"transfer-encoding: chunked\r\n\r\n"], repeat(b"1\r\n.\r\n")),
    ],
    ids=["hints", "headers", "a header", "a body", "chunks"],
)
def test_an_answer_that_drips_ends_at_the_deadline(receiver, pieces):
    pouring = Pouring(receiver, pieces, every_s=0.005)
    answer = send(receiver.url, deadline_s=0.1)
    assert (answer.status, answer.fault, last_step(answer)) == (None, "deadline", "read")
    assert pouring.until_hung_up() > 0


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        (chain([OK, b"\r\n"], repeat(b"x" * 10_000)), b"x" * 4096),
        (
            chain(
                [OK, b"transfer-encoding: chunked\r\n\r\n"],
                repeat(b"3e8\r\n" + b"y" * 1000 + b"\r\n"),
            ),
            b"y" * 4096,
        ),
    ],
    ids=["a body", "chunks"],
)
def test_of_a_body_that_never_ends_four_kibibytes_are_read(receiver, pieces, kept):
    pouring = Pouring(receiver, pieces)
    answer = send(receiver.url)
    assert (answer.status, answer.body) == (200, kept)
    assert pouring.until_hung_up() < MOST_READ


def bomb(megabytes):
    """Zeros, zipped a thousand to one and more; one megabyte at a time."""
    packer = zlib.compressobj(wbits=31)
    for _ in range(megabytes):
        yield packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)


def test_a_bomb_of_two_hundred_megabytes_is_not_unzipped(receiver):
    pouring = Pouring(receiver, chain([OK, b"content-encoding: gzip\r\n\r\n"], bomb(200)))
    answer = send(receiver.url)
    assert answer.body == b"".join(islice(bomb(200), 5))[:4096]
    assert pouring.until_hung_up() < MOST_READ


@pytest.mark.parametrize("piece", [b"p" * 1000, b"x-tar: pit\r\n" * 90], ids=["one", "many"])
def test_headers_of_five_megabytes_are_not_read(receiver, piece):
    pouring = Pouring(receiver, chain([OK, b"x-first: "], repeat(piece, 5000)))
    assert send(receiver.url).fault == "protocol"
    assert pouring.until_hung_up() < MOST_READ


# What it says of an attempt


def test_each_step_that_was_begun_is_timed(receiver):
    first, second = send(receiver.url, times=2)
    assert list(first.phases) == ["dns", "connect", "send", "wait", "read"]
    assert list(second.phases) == ["send", "wait", "read"]  # on a connection that was kept
    assert all(seconds >= 0 for seconds in first.phases.values())


def test_the_wait_ends_with_the_first_byte_and_the_rest_is_reading(receiver):
    took = []

    def take_time():
        began = time.monotonic()
        receiver.released.wait(0.1)
        took.append(time.monotonic() - began)

    def reply(handler, _received):
        handler.close_connection = True
        for piece in (OK, b"\r\n"):
            take_time()
            handler.wfile.write(piece)

    receiver.reply = reply
    phases = send(receiver.url).phases
    # Each may have begun a little after the other side did its part.
    assert phases["send"] + phases["wait"] >= took[0]
    assert phases["read"] >= took[1] / 10


def test_a_defect_is_a_fault_that_quotes_nothing(receiver):
    def broken(_host, _port):
        raise RuntimeError("hush")

    answer = send(named(receiver), resolve=broken)
    assert answer.fault == "protocol"
    assert "hush" not in answer.error


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
    answer = send(other, **options)
    assert (answer.fault, "Hostname mismatch" in answer.error) == ("tls", True)


def test_a_handshake_is_timed_and_spared_on_a_connection_that_was_kept(tls_receiver, certificate):
    trusting = ssl.create_default_context(cafile=certificate[0])
    first, second = send(named(tls_receiver), times=2, resolve=to_loopback, trust=lambda: trusting)
    assert list(first.phases) == ["dns", "connect", "tls", "send", "wait", "read"]
    assert list(second.phases) == ["send", "wait", "read"]


def test_a_receiver_that_speaks_no_tls_is_a_tls_fault(receiver):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=greet, args=(plain,)).start()
        answer = send(f"https://127.0.0.1:{plain.getsockname()[1]}/")
    assert (answer.fault, "wrong version number" in answer.error) == ("tls", True)


def greet(listening):
    connection, _ = listening.accept()
    with connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_before_1_2_is_refused(certificate):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(*certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with receiving(old) as receiver:
        answer = send(named(receiver), resolve=to_loopback)
        assert (answer.fault, receiver.received) == ("tls", [])
    assert "self-signed" not in answer.error  # it did not come to that
