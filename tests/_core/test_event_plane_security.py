"""The event plane among strangers: who may listen, who is heard, and what of our secrets anybody sees."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
import zmq
import zmq.asyncio
from tests.conformance.event_plane import DEADLINE_S, meet, read_payloads
from tests.nats_server import NatsServer

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.event_plane import EventPlane, open_event_plane
from dynamo._core.event_plane._zmq_curve import CurveKeys
from dynamo._core.event_plane.nats import NatsEventPlane
from dynamo._core.event_plane.zmq import ZmqEventPlane

TOKEN, OTHER_TOKEN = b"t" * 32, b"o" * 32


class Cluster:
    """One discovery, and planes that are closed at the end."""

    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self.stack = AsyncExitStack()

    def plane(self, token: bytes | None) -> ZmqEventPlane:
        plane = ZmqEventPlane(self.discovery, token=token)
        self.stack.push_async_callback(plane.close)
        return plane

    async def address_of_publisher(self) -> str:
        """Where discovery says that the one publisher is."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := await self.discovery.get_prefix("")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        [record] = found.values()
        return record.decode().split('"')[-2]


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    async with cluster.stack:
        yield cluster


async def until_refused(plane: EventPlane, publisher: EventPlane) -> None:
    """Publish until the plane has counted somebody who was refused."""
    async with asyncio.timeout(DEADLINE_S):
        while plane.stats.num_refused == 0:
            await publisher.publish("kv", b"secret")
            await asyncio.sleep(0.02)


# A cluster token on ZeroMQ


async def test_those_with_the_token_hear_each_other(cluster: Cluster) -> None:
    here, there = cluster.plane(TOKEN), cluster.plane(TOKEN)
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    await here.publish("kv", b"ours")
    assert await read_payloads(subscription, 1) == [b"ours"]
    assert here.stats.num_refused == there.stats.num_refused == 0


@pytest.mark.parametrize(
    ("publisher_token", "listener_token"),
    [(TOKEN, OTHER_TOKEN), (TOKEN, None), (None, TOKEN)],
    ids=["another token", "a listener without one", "a publisher without one"],
)
async def test_those_with_another_token_hear_nothing_and_it_is_said_and_counted(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, publisher_token: bytes | None, listener_token: bytes | None
) -> None:
    publisher, stranger = cluster.plane(publisher_token), cluster.plane(listener_token)
    subscription = stranger.subscribe("kv")
    reading = asyncio.create_task(anext(subscription, None))
    await until_refused(publisher, publisher)
    if listener_token is not None:
        await until_refused(stranger, publisher)
    friend = cluster.plane(publisher_token)
    await meet(publisher, friend.subscribe("kv"))
    assert not reading.done()
    assert "DYN_CLUSTER_TOKEN" in caplog.text
    assert "t" * 32 not in caplog.text
    await stranger.close()
    assert await reading is None


async def test_a_stranger_who_speaks_curve_hears_nothing(cluster: Cluster) -> None:
    publisher = cluster.plane(TOKEN)
    await publisher.publish("kv", b"secret")
    address = await cluster.address_of_publisher()
    public, secret = zmq.curve_keypair()
    server_key, _ = zmq.curve_keypair()
    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as stranger:
        stranger.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
        stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
        stranger.setsockopt(zmq.SUBSCRIBE, b"")
        stranger.connect(address)
        await until_refused(publisher, publisher)
        assert not await stranger.poll(100)


async def test_nobody_without_the_token_reads_what_is_sent(cluster: Cluster) -> None:
    """The bytes on the wire, as somebody between two processes of ours sees them."""
    publisher = cluster.plane(TOKEN)
    await publisher.publish("kv", b"secret")
    _, _, port = (await cluster.address_of_publisher()).rpartition(":")
    seen = bytearray()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            seen.extend(data)
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    keys = CurveKeys.from_token(TOKEN)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as between:
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as friend:
            keys.secure_listener(zmq.Socket(friend))
            friend.setsockopt(zmq.SUBSCRIBE, b"kv")
            friend.connect(f"tcp://127.0.0.1:{between.sockets[0].getsockname()[1]}")
            async with asyncio.timeout(DEADLINE_S):
                receiving = asyncio.ensure_future(friend.recv_multipart())
                while not receiving.done():
                    await publisher.publish("kv", b"a prompt, say")
                    await asyncio.wait([receiving], timeout=0.02)
        assert b"a prompt, say" in receiving.result()[-1]
        await publisher.close()
    assert b"CURVE" in seen
    assert b"a prompt, say" not in seen
    assert keys.publisher_public not in seen


def test_keys_are_the_same_for_all_who_hold_a_token_and_show_nothing() -> None:
    keys = CurveKeys.from_token(TOKEN)
    assert keys == CurveKeys.from_token(TOKEN)
    assert keys != CurveKeys.from_token(OTHER_TOKEN)
    assert keys.publisher_secret != keys.listener_secret
    assert keys.publisher_secret.decode() not in repr(keys)


async def test_who_has_a_token_may_publish_to_other_hosts() -> None:
    with pytest.raises(ConfigError, match="set DYN_CLUSTER_TOKEN"):
        await open_event_plane("zmq://192.0.2.1", MemoryDiscovery(), {})
    with pytest.raises(ConfigError, match=r"cannot publish at 192\.0\.2\.1"):  # an address that is nobody's
        await open_event_plane("zmq://192.0.2.1", MemoryDiscovery(), {"DYN_CLUSTER_TOKEN": TOKEN.decode()})
    with pytest.raises(ConfigError, match="DYN_CLUSTER_TOKEN"):
        await open_event_plane("zmq:", MemoryDiscovery(), {"DYN_CLUSTER_TOKEN": "short"})


async def test_the_token_of_the_environment_is_the_one_that_counts(cluster: Cluster) -> None:
    plane = await open_event_plane("zmq:", cluster.discovery, {"DYN_CLUSTER_TOKEN": TOKEN.decode()})
    cluster.stack.push_async_callback(plane.close)
    await meet(plane, cluster.plane(TOKEN).subscribe("kv"))


# TLS and secrets on NATS


@pytest_asyncio.fixture
async def tls_nats(tmp_path: Path) -> AsyncIterator[tuple[NatsServer, dict[str, str]]]:
    """A NATS that speaks TLS only, and asks for certificates; and the settings of who may come in."""
    authority = trustme.CA()
    for name, certificate in (("server", authority.issue_cert("127.0.0.1")), ("us", authority.issue_cert("us"))):
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = ["--tlscert", "server.pem", "--tlskey", "server.key", "--tlscacert", "ca.pem"]
    options = [option if option.startswith("--") else str(tmp_path / option) for option in files]
    server = NatsServer(tmp_path / "nats", ["--tlsverify", *options])
    try:
        await server.start()
        yield (
            server,
            {f"NATS_TLS_{k}": str(tmp_path / f) for k, f in (("CA", "ca.pem"), ("CERT", "us.pem"), ("KEY", "us.key"))},
        )
    finally:
        await server.close()


async def test_nats_is_spoken_to_with_certificates(
    cluster: Cluster, tls_nats: tuple[NatsServer, dict[str, str]]
) -> None:
    server, environ = tls_nats
    plane = await NatsEventPlane.connect(server.url.replace("nats:", "tls:"), environ)
    cluster.stack.push_async_callback(plane.close)
    await meet(plane, plane.subscribe("kv"))


async def test_nats_refuses_who_has_no_certificate_and_is_refused_if_nobody_vouches_for_it(
    tls_nats: tuple[NatsServer, dict[str, str]],
) -> None:
    server, environ = tls_nats
    url = server.url.replace("nats:", "tls:")
    without_proof = {"NATS_TLS_CA": environ["NATS_TLS_CA"]}
    for settings in (without_proof, {}):
        with pytest.raises((CannotConnect, ConfigError), match="DYN_EVENT_PLANE"):
            async with asyncio.timeout(DEADLINE_S):
                await NatsEventPlane.connect(url, settings)


async def test_a_connection_to_nats_that_breaks_while_it_is_given_up_is_told_as_one_that_cannot_be_made(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    environ = {"NATS_TLS_CA": str(tmp_path / "ca.pem")}
    with NotNats(authority) as url:
        for _ in range(5):
            with pytest.raises((CannotConnect, ConfigError), match="DYN_EVENT_PLANE"):
                async with asyncio.timeout(DEADLINE_S):
                    await NatsEventPlane.connect(url, environ)


class NotNats:
    """A server that speaks TLS as NATS does, and in its answer something else: whoever reads it finds TLS broken."""

    def __init__(self, authority: trustme.CA) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> str:
        self._thread.start()
        return f"tls://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                bare, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            with bare, contextlib.suppress(OSError):
                bare.settimeout(DEADLINE_S)
                bare.sendall(b'INFO {"tls_required":true,"max_payload":1048576}\r\n')
                with self._tls.wrap_socket(bare.dup(), server_side=True) as speaking:
                    speaking.recv(1024)
                    bare.sendall(b"this is not TLS\r\n" * 4)


async def test_a_tls_file_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        await NatsEventPlane.connect("tls://127.0.0.1:1", {"NATS_TLS_CA": missing})


@pytest.mark.parametrize(
    "url",
    [
        "kafka://us:hunter2@h",
        "nats//us:hunter2@h:4222",
        "us:hunter2@h:4222",
        "nats://us:hunter2@h:x",
        "nats://us:hunter2@h/x",
        "nats://us:hunter2@127.0.0.1:1",
        "nats://us:hunt/er2@127.0.0.1:1",
        "zmq://us:hunter2@127.0.0.1",
        "zmq://us:hunter2@127.0.0.1?x=1",
    ],
)
async def test_no_error_shows_a_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises((ConfigError, CannotConnect), match="DYN_EVENT_PLANE") as raised:
        await open_event_plane(url, MemoryDiscovery())
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunt" not in f"{error} {getattr(error, 'details', '')}"
        error = error.__cause__
    assert "hunt" not in caplog.text
