"""How etcd is reached: who may, with which proof, and how soon it is an error if that does not work."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from tests._core.etcd_watching import degraded, next_change, until, watching, well
from tests.etcd_server import EtcdServer, etcd
from tests.free_port import free_port

from dynamo._core.discovery import Put
from dynamo._core.discovery._etcd_gateway import CALL_TIMEOUT_S, FIRST_CALL_TIMEOUT_S, Credentials
from dynamo._core.discovery._etcd_keys import PAGE_KEYS
from dynamo._core.discovery._etcd_url import open_etcd
from dynamo._core.discovery.etcd import EtcdDiscovery
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.limits import ETCD_REPLY_BYTES_MAX, VALUE_BYTES_MAX

#: What an error may take: less than two seconds, and a machine that is busy.
SOON_S = 4.0
PASSWORD = "p/a:s@s"
IN_URL = "p%2Fa%3As%40s"


@pytest_asyncio.fixture
async def locked(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """An etcd that asks for a password."""
    async with etcd(tmp_path / "etcd") as server:
        await server.ctl("user", "add", f"root:{PASSWORD}")
        await server.ctl("user", "grant-role", "root", "root")
        await server.ctl("auth", "enable")
        yield server


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Three members that take connections and say nothing."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [f"http://127.0.0.1:{one.getsockname()[1]}" for one in sockets]


async def error_of(discovery: EtcdDiscovery) -> str:
    """What is said to whoever begins with this discovery."""
    async with asyncio.timeout(SOON_S):
        with pytest.raises((CannotConnect, ConfigError)) as raised:
            await discovery.grant()
    await discovery.close()
    return str(raised.value)


# What is not there.


async def test_an_etcd_that_is_not_there_is_an_error_that_names_the_setting() -> None:
    assert FIRST_CALL_TIMEOUT_S < CALL_TIMEOUT_S < 2.0
    url = f"http://127.0.0.1:{free_port()}"
    said = await error_of(EtcdDiscovery([url]))
    assert "DYN_DISCOVERY" in said
    assert url in said


@pytest.mark.parametrize("count", [1, 3])
async def test_members_that_say_nothing_take_no_longer_however_many_they_are(silent: list[str], count: int) -> None:
    assert "no answer in time" in await error_of(EtcdDiscovery(silent[:count]))


async def test_the_traceback_of_an_etcd_that_is_not_there_is_ours_alone() -> None:
    discovery = EtcdDiscovery([f"http://127.0.0.1:{free_port()}"])
    with pytest.raises(CannotConnect) as caught:
        await discovery.grant()
    assert "aiohttp" not in "".join(traceback.format_exception(caught.value))
    await discovery.close()


async def test_a_watch_of_an_etcd_that_is_not_there_is_an_error_too() -> None:
    discovery = EtcdDiscovery([f"http://127.0.0.1:{free_port()}"])
    async with asyncio.timeout(SOON_S):
        with pytest.raises(CannotConnect, match="DYN_DISCOVERY"):
            await anext(discovery.watch(""))
    await discovery.close()


async def test_a_host_of_etcd_that_nobody_knows_is_said_to_be_unknown() -> None:
    said = await error_of(EtcdDiscovery(["http://no-such-host.invalid:2379"]))
    assert "'no-such-host.invalid' is not known to the resolver" in said
    assert "ssl:default" not in said


async def test_an_etcd_without_tls_is_told_apart_from_one_with() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        said = await error_of(EtcdDiscovery([f"https://127.0.0.1:{port}"], tls=ssl.create_default_context()))
    assert "the peer does not speak TLS" in said


def test_a_port_that_is_none_is_shown() -> None:
    with pytest.raises(ConfigError, match=r"'127.0.0.1:99999' is no host, or has no port from 1 to 65535"):
        open_etcd("etcd://127.0.0.1:99999", {})


async def test_a_server_that_is_no_etcd_is_said_to_be_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        said = await error_of(EtcdDiscovery([f"http://127.0.0.1:{port}"]))
    assert "HTTP status 404, 'nope': is it etcd 3.4 or newer" in said


async def test_members_that_are_not_there_are_passed_over(tmp_path: Path, silent: list[str]) -> None:
    async with etcd(tmp_path / "etcd") as server:
        for members in ([silent[0], server.url], [f"http://127.0.0.1:{free_port()}", server.url]):
            discovery = EtcdDiscovery(members)
            await discovery.put("a/1", b"1", await discovery.grant())
            assert await discovery.get_prefix("a/") == {"a/1": b"1"}
            await discovery.close()


# Who we are.


async def test_a_wrong_password_says_so_and_is_not_repeated(locked: EtcdServer) -> None:
    said = await error_of(EtcdDiscovery([locked.url], credentials=Credentials("root", "secret")))
    assert "authentication failed" in said
    assert "ETCD_AUTH_PASSWORD" in said
    assert "secret" not in said + repr(Credentials("root", "secret"))


async def test_no_password_says_so(locked: EtcdServer) -> None:
    discovery = EtcdDiscovery([locked.url])
    with pytest.raises(ConfigError, match="ETCD_AUTH_USERNAME"):
        await discovery.put("a/1", b"1")
    await discovery.close()


async def test_a_password_for_an_etcd_that_asks_for_none_is_refused(tmp_path: Path) -> None:
    async with etcd(tmp_path / "etcd") as server:
        said = await error_of(EtcdDiscovery([server.url], credentials=Credentials("root", PASSWORD)))
    assert "authentication is not enabled" in said


async def test_a_user_and_a_password_from_the_url_let_us_in(locked: EtcdServer) -> None:
    discovery = open_etcd(f"etcd://root:{IN_URL}@127.0.0.1:{locked.port}/shared", {})
    await discovery.put("a/1", b"1", await discovery.grant())
    assert await discovery.get_prefix("a/") == {"a/1": b"1"}
    assert await locked.ctl("get", "shared/a/1", "--print-value-only", "--user", f"root:{PASSWORD}") == "1\n"
    await discovery.close()


async def test_a_watch_outlives_the_token_that_it_began_with(locked: EtcdServer) -> None:
    discovery, other = (EtcdDiscovery([locked.url], credentials=Credentials("root", PASSWORD)) for _ in range(2))
    lease = await other.grant()
    async with watching(discovery) as changes:
        await locked.kill()
        await degraded(discovery)
        await locked.start()  # which has forgotten all tokens
        await locked.ready()
        await other.put("a/1", b"1", lease)
        assert await next_change(changes) == Put("a/1", b"1")
    await well(discovery, other)
    await discovery.close()
    await other.close()


async def test_a_watch_that_etcd_refuses_for_a_while_is_degraded_and_goes_on(locked: EtcdServer) -> None:
    administrator = ("--user", f"root:{PASSWORD}")
    await locked.ctl("user", "add", "worker:pw", *administrator)
    await locked.ctl("role", "add", "worker", *administrator)
    await locked.ctl("role", "grant-permission", "worker", "readwrite", "--prefix", "a/", *administrator)
    await locked.ctl("user", "grant-role", "worker", "worker", *administrator)
    discovery = EtcdDiscovery([locked.url], credentials=Credentials("worker", "pw"), hold_s=1.0)
    async with watching(discovery) as changes:
        await locked.ctl("user", "revoke-role", "worker", "worker", *administrator)
        await locked.kill()
        await locked.start()
        await until(lambda: "denied" in discovery.status.reason)
        await locked.ctl("user", "grant-role", "worker", "worker", *administrator)
        await locked.ctl("put", "a/1", "1", *administrator)
        assert await next_change(changes) == Put("a/1", b"1")
    await discovery.close()


async def test_a_range_of_more_keys_than_fit_a_reply_is_whole(tmp_path: Path) -> None:
    async with etcd(tmp_path / "etcd") as server:
        discovery = EtcdDiscovery([server.url])
        expected = {f"a/{number:05}": b"" for number in range(PAGE_KEYS + 1)}
        await asyncio.gather(*(discovery.put(key, b"") for key in expected))
        assert await discovery.get_prefix("a/") == expected
        await discovery.close()


async def test_a_range_is_read_however_large_its_values_are(tmp_path: Path) -> None:
    count = ETCD_REPLY_BYTES_MAX // VALUE_BYTES_MAX
    async with etcd(tmp_path / "etcd") as server:
        discovery = EtcdDiscovery([server.url])
        for number in range(count):
            await discovery.put(f"a/{number}", bytes(VALUE_BYTES_MAX))
        assert len(await discovery.get_prefix("a/")) == count
        await discovery.close()


# TLS.


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("127.0.0.1", "client.test"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    return authority


@pytest_asyncio.fixture
async def tls_server(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[EtcdServer]:
    """An etcd that shows a certificate and asks for one."""
    ours = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    ours.load_cert_chain(tmp_path / "client.test.pem")
    files = {"--cert-file": "127.0.0.1.pem", "--key-file": "127.0.0.1.pem", "--trusted-ca-file": "ca.pem"}
    options = [text for name, file in files.items() for text in (name, str(tmp_path / file))]
    async with etcd(tmp_path / "etcd", *options, "--client-cert-auth", tls=ours) as server:
        yield server


async def test_certificates_of_both_sides_are_checked(tmp_path: Path, tls_server: EtcdServer) -> None:
    url = f"etcds://127.0.0.1:{tls_server.port}"
    trust = {"ETCD_AUTH_CA": str(tmp_path / "ca.pem")}
    proof = {"ETCD_AUTH_CLIENT_CERT": str(tmp_path / "client.test.pem")}
    good = open_etcd(url, trust | proof)
    async with watching(good) as changes:  # type: ignore[arg-type]
        await good.put("a/1", b"1", await good.grant())
        assert await next_change(changes) == Put("a/1", b"1")
    await good.close()
    for environ, why in (({}, "certificate of the peer is refused"), (trust, "certificate required|bad certificate")):
        discovery = open_etcd(url, environ)
        with pytest.raises(CannotConnect, match=why):
            await discovery.grant()
        await discovery.close()


async def test_plain_text_for_an_etcd_with_tls_is_said_to_be_so(tls_server: EtcdServer) -> None:
    said = await error_of(EtcdDiscovery([f"http://127.0.0.1:{tls_server.port}"]))
    assert "etcds://" in said
