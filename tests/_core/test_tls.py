"""TLS between hosts: who is let in with which certificate, and what the others are told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests._core.secured import TOKEN, Authority, ask, connect, echo, until_closed, where, with_token

from dynamo._core.context import Context
from dynamo._core.credentials import TlsFiles, tls_files
from dynamo._core.errors import CannotConnect, ConfigError, Unauthorized
from dynamo._core.request_plane import open_request_plane
from dynamo._core.request_plane.tcp import TcpPlane


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "cluster")


@pytest.fixture
async def serving(authority: Authority) -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False, credentials=with_token(None, authority.issue("worker")))
    yield plane
    await plane.close()


def caller(tls: TlsFiles | None) -> TcpPlane:
    return TcpPlane(local=False, credentials=with_token(None, tls))


async def test_certificates_of_one_authority_open_the_way(serving: TcpPlane, authority: Authority) -> None:
    listener = await serving.listen(echo)
    calling = caller(authority.issue("frontend"))
    large = bytes(range(256)) * 40960  # 10 MiB
    assert await ask(calling, listener.address) == [b"hi"]
    assert await ask(calling, listener.address, large) == [large]
    await calling.close()


async def test_many_streams_and_slow_readers_pass_through_tls(serving: TcpPlane, authority: Authority) -> None:
    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % number + bytes(50_000)

    listener = await serving.listen(many)
    calling = caller(authority.issue("frontend"))
    streams = [await calling.call(listener.address, b"", Context()) for _ in range(4)]
    async with asyncio.timeout(30):
        for stream in streams:  # one after the other: the later ones wait with their windows full
            assert [item.rstrip(b"\0") async for item in stream] == [b"%d" % number for number in range(100)]
    await calling.close()


async def test_a_caller_without_a_certificate_is_refused(serving: TcpPlane, authority: Authority) -> None:
    listener = await serving.listen(echo)
    calling = caller(TlsFiles(ca=authority.path))
    with pytest.raises(CannotConnect, match="DYN_TLS_CERT"):
        await ask(calling, listener.address)
    await calling.close()


async def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    serving: TcpPlane, authority: Authority, tmp_path: Path
) -> None:
    listener = await serving.listen(echo)
    other = Authority(tmp_path / "other").issue("intruder")
    worker_is_unknown = caller(other)
    with pytest.raises(Unauthorized, match="DYN_TLS_CA"):
        await ask(worker_is_unknown, listener.address)
    caller_is_unknown = caller(TlsFiles(other.cert, other.key, authority.path))
    with pytest.raises(CannotConnect, match="DYN_TLS_CERT"):
        await ask(caller_is_unknown, listener.address)
    for calling in (worker_is_unknown, caller_is_unknown):
        await calling.close()


async def test_a_caller_without_tls_is_refused_by_one_with(serving: TcpPlane) -> None:
    listener = await serving.listen(echo)
    calling = caller(None)
    with pytest.raises(CannotConnect, match="TLS"):
        await ask(calling, listener.address)
    await calling.close()


async def test_a_caller_with_tls_never_speaks_in_the_clear(authority: Authority) -> None:
    heard = bytearray()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    calling = caller(authority.issue("frontend"))
    async with server:
        with pytest.raises(CannotConnect):
            await ask(calling, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1?v=1", b"secret")
    assert heard[:2] == b"\x16\x03"  # the first and only thing it says is the hello of TLS
    await calling.close()


async def test_a_worker_without_tls_tells_a_caller_with_tls_apart(authority: Authority) -> None:
    serving, calling = TcpPlane(local=False), caller(authority.issue("frontend"))
    listener = await serving.listen(echo)
    with pytest.raises(CannotConnect, match="TLS failed"):
        await ask(calling, listener.address)
    assert serving.stats.frames_rejected["bad_magic"] == 1
    await calling.close()
    await serving.close()


async def test_a_handshake_of_tls_that_fails_is_counted(serving: TcpPlane, caplog: pytest.LogCaptureFixture) -> None:
    listener = await serving.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await until_closed(reader)
    async with asyncio.timeout(60):
        while not serving.stats.hello_failures["tls"]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    assert "handshake of TLS" in caplog.text
    writer.close()


async def test_old_versions_of_tls_are_refused(serving: TcpPlane, authority: Authority) -> None:
    listener = await serving.listen(echo)
    context = authority.issue("frontend").client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(*where(listener.address), ssl=context)


async def test_a_token_and_tls_go_together(authority: Authority) -> None:
    tls = authority.issue("worker", ca=False)  # who calls is asked for the token, and for no certificate
    serving = TcpPlane(local=False, credentials=with_token(TOKEN, tls))
    listener = await serving.listen(echo)
    trusted = TcpPlane(local=False, credentials=with_token(TOKEN, TlsFiles(ca=authority.path)))
    assert await ask(trusted, listener.address) == [b"hi"]
    stranger = TcpPlane(local=False, credentials=with_token(None, TlsFiles(ca=authority.path)))
    with pytest.raises(Unauthorized, match="DYN_CLUSTER_TOKEN"):
        await ask(stranger, listener.address)
    for plane in (trusted, stranger, serving):
        await plane.close()


async def test_without_an_authority_the_certificate_must_be_one_that_this_host_trusts(authority: Authority) -> None:
    files = authority.issue("worker", ca=False)
    serving = TcpPlane(local=False, credentials=with_token(TOKEN, files))
    listener = await serving.listen(echo)
    calling = TcpPlane(local=False, credentials=with_token(TOKEN, files))
    with pytest.raises(Unauthorized, match="TLS failed"):
        await ask(calling, listener.address)
    await calling.close()
    await serving.close()


async def test_within_a_host_the_unix_socket_is_used_without_tls(authority: Authority) -> None:
    serving = TcpPlane("127.0.0.1", credentials=with_token(None, authority.issue("worker")))
    calling = TcpPlane(credentials=with_token(None, None))  # of the same user, which is what counts here
    listener = await serving.listen(echo)
    assert "local=" in listener.address
    assert await ask(calling, listener.address) == [b"hi"]
    await calling.close()
    await serving.close()


# What the settings must be.


def test_a_certificate_needs_its_key(authority: Authority) -> None:
    files = authority.issue("worker")
    with pytest.raises(ConfigError, match="DYN_TLS_CERT is set and DYN_TLS_KEY is not"):
        tls_files({"DYN_TLS_CERT": files.cert})
    with pytest.raises(ConfigError, match="DYN_TLS_KEY is set and DYN_TLS_CERT is not"):
        tls_files({"DYN_TLS_KEY": files.key})


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    files = authority.issue("worker")
    Path(files.key).chmod(0o644)
    with pytest.raises(ConfigError, match=r"DYN_TLS_KEY.*chmod 600"):
        files.server_context()


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "garbage"])
def test_a_file_that_cannot_be_used_is_named(authority: Authority, part: str, content: str | None) -> None:
    files = authority.issue("worker")
    path = Path(getattr(files, part))
    path.unlink()
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    environ = {"DYN_TLS_CERT": files.cert, "DYN_TLS_KEY": files.key, "DYN_TLS_CA": files.ca}
    with pytest.raises(ConfigError, match=f"DYN_TLS_{part.upper()}") as caught:
        open_request_plane("tcp:", environ)
    assert str(path) in str(caught.value)


async def test_a_process_that_has_only_an_authority_calls_and_does_not_serve(authority: Authority) -> None:
    plane = TcpPlane(local=False, credentials=with_token(None, TlsFiles(ca=authority.path)))
    with pytest.raises(ConfigError, match="DYN_TLS_CERT"):
        await plane.listen(echo)
    await plane.close()


def test_tls_alone_lets_others_in_only_if_it_is_mutual(authority: Authority) -> None:
    mutual, one_way = authority.issue("worker"), authority.issue("other", ca=False)
    TcpPlane("192.0.2.1", credentials=with_token(None, mutual))
    with pytest.raises(ConfigError, match="no credentials"):
        TcpPlane("192.0.2.1", credentials=with_token(None, one_way))
