"""Handshakes of TLS that fail: the server counts and logs why, and the caller is told so that he does not try again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests._core.secured import DEADLINE_S, Authority, ask, connect, echo, until_closed, with_token

from dynamo._core.credentials import TlsFiles
from dynamo._core.errors import ConfigError, Unauthorized
from dynamo._core.request_plane import _stats
from dynamo._core.request_plane.base import Listener
from dynamo._core.request_plane.tcp import TcpPlane

TODAY = datetime.now(UTC).replace(tzinfo=None)
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "cluster")


@pytest.fixture
async def serving(authority: Authority) -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False, credentials=with_token(None, authority.issue("worker")))
    yield plane
    await plane.close()


async def refused(listener: Listener, tls: TlsFiles) -> str:
    """Call with these files, and return what the caller is told."""
    calling = TcpPlane(local=False, credentials=with_token(None, tls))
    with pytest.raises(Unauthorized) as caught:
        await ask(calling, listener.address)
    await calling.close()
    return caught.value.message


async def test_a_caller_without_a_certificate_is_told_that_one_is_asked_for(
    serving: TcpPlane, authority: Authority
) -> None:
    listener = await serving.listen(echo)
    assert "the peer asks for a certificate" in await refused(listener, TlsFiles(ca=authority.path))


async def test_a_caller_of_another_authority_is_told_that_it_is_unknown(
    serving: TcpPlane, authority: Authority, tmp_path: Path
) -> None:
    listener = await serving.listen(echo)
    other = Authority(tmp_path / "other").issue("intruder")
    told = await refused(listener, TlsFiles(other.cert, other.key, authority.path))
    assert "knows nothing of the authority of our certificate" in told


async def test_a_refused_certificate_is_counted_and_logged_at_once(
    serving: TcpPlane, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await serving.listen(echo)
    await refused(listener, TlsFiles(ca=authority.path))
    assert serving.stats.hello_failures["tls"] == 1
    assert "the peer shows no certificate" in caplog.text
    assert "from 127.0.0.1 port" in caplog.text


async def test_the_log_is_not_filled_by_whoever_is_refused_again_and_again(
    serving: TcpPlane, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await serving.listen(echo)
    for _ in range(5):
        await refused(listener, TlsFiles(ca=authority.path))
    assert serving.stats.hello_failures["tls"] == 5
    lines = [record for record in caplog.records if record.name == _stats.__name__ and "shows no" in record.message]
    assert len(lines) == 1


async def test_what_is_no_tls_is_counted_and_logged_at_once(
    serving: TcpPlane, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await serving.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(b"this is certainly no hello of TLS")
    await until_closed(reader)
    writer.close()
    assert serving.stats.hello_failures["tls"] == 1
    assert "does not speak TLS" in caplog.text


async def test_who_leaves_in_the_middle_of_a_handshake_is_counted_once(
    serving: TcpPlane, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await serving.listen(echo)
    with caplog.at_level(logging.WARNING):
        reader, writer = await connect(listener.address)
        writer.write(b"\x16\x03\x01")
        writer.write_eof()
        await until_closed(reader)
        writer.close()
    assert serving.stats.hello_failures["tls"] == 1
    assert "did not finish the handshake of TLS" in caplog.text


async def test_a_server_closes_while_somebody_shakes_hands(serving: TcpPlane) -> None:
    listener = await serving.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(b"\x16\x03\x01")
    await writer.drain()
    async with asyncio.timeout(DEADLINE_S):
        await serving.close()
    await until_closed(reader)
    writer.close()


async def test_a_caller_is_told_that_a_worker_does_not_speak_tls(authority: Authority) -> None:
    serving = TcpPlane(local=False)
    listener = await serving.listen(echo)
    assert "the peer does not speak TLS" in await refused(listener, authority.issue("frontend"))
    await serving.close()


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [
        pytest.param(-9 * DAY, -DAY, "certificate has expired", id="expired"),
        pytest.param(DAY, 9 * DAY, "certificate is not yet valid", id="of tomorrow"),
    ],
)
def test_a_certificate_of_another_time_is_refused_at_start(
    authority: Authority, since: timedelta, until: timedelta, told: str
) -> None:
    files = authority.issue("worker", not_before=TODAY + since, not_after=TODAY + until)
    with pytest.raises(ConfigError, match=rf"DYN_TLS_CERT.*{told}"):
        TcpPlane(credentials=with_token(None, files))
    with pytest.raises(ConfigError, match=rf"DYN_TLS_CERT.*{told}"):
        files.server_context()


def test_a_certificate_of_today_is_taken_whoever_signed_it(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("worker")
    other = Authority(tmp_path / "other")
    TlsFiles(files.cert, files.key, other.path).server_context()
    TlsFiles(files.cert, files.key, other.path).client_context()
