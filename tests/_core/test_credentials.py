"""Where credentials come from, and what two processes need to prove to each other before anything is said."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests._core.secured import (
    OTHER_TOKEN,
    TOKEN,
    ask,
    connect,
    echo,
    next_messages,
    read_messages,
    until_closed,
    with_token,
)

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.credentials import Credentials, Secret, cluster_token
from dynamo._core.errors import ConfigError, ProtocolError, Unauthorized
from dynamo._core.limits import HELLO_FRAME_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_BYTES_MIN
from dynamo._core.request_plane import open_request_plane
from dynamo._core.request_plane._handshake import NONCE_BYTES, Handshake
from dynamo._core.request_plane.tcp import TcpPlane

LONG = "0123456789abcdef" * 4


# Where a token comes from.


def test_without_a_token_there_is_none() -> None:
    assert cluster_token({}) is None
    assert cluster_token({"DYN_CLUSTER_TOKEN": "", "DYN_CLUSTER_TOKEN_FILE": ""}) is None


def test_the_token_is_in_the_environment_or_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(LONG + "\n")
    file.chmod(0o600)
    assert cluster_token({"DYN_CLUSTER_TOKEN": LONG}) == LONG.encode()
    assert cluster_token({"DYN_CLUSTER_TOKEN_FILE": str(file)}) == LONG.encode()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o622, 0o660, 0o644])
def test_a_token_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text(LONG)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=r"DYN_CLUSTER_TOKEN_FILE.*chmod 600"):
        cluster_token({"DYN_CLUSTER_TOKEN_FILE": str(file)})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(LONG)
    file.chmod(0o600)
    os.chown(file, 4321, 4321)
    with pytest.raises(ConfigError, match="must be yours"):
        cluster_token({"DYN_CLUSTER_TOKEN_FILE": str(file)})


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="DYN_CLUSTER_TOKEN_FILE"):
        cluster_token({"DYN_CLUSTER_TOKEN_FILE": str(tmp_path / path)})


@pytest.mark.parametrize("token", ["hunter2", "x" * (TOKEN_BYTES_MIN - 1), " " * 100, "x" * (TOKEN_BYTES_MAX + 1)])
def test_a_token_of_the_wrong_size_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="DYN_CLUSTER_TOKEN has a token of") as caught:
        cluster_token({"DYN_CLUSTER_TOKEN": token})
    assert token.strip() == "" or token not in str(caught.value)


def test_a_token_given_in_two_ways_is_refused() -> None:
    with pytest.raises(ConfigError, match="both set"):
        cluster_token({"DYN_CLUSTER_TOKEN": LONG, "DYN_CLUSTER_TOKEN_FILE": "/token"})


def test_a_token_never_shows_itself(caplog: pytest.LogCaptureFixture) -> None:
    credentials = Credentials.from_environ({"DYN_CLUSTER_TOKEN": LONG})
    token = credentials.token
    logging.getLogger("test").warning("%s %r %s", token, token, credentials)
    shown = (repr(token), str(token), f"{token}", f"{credentials}", repr({"token": token}), caplog.text)
    assert not any(LONG in text for text in shown)


@pytest.mark.parametrize("variable", ["DYN_CLUSTER_TOKEN", "DYN_TLS_CERT", "DYN_TLS_KEY", "DYN_TLS_CA"])
def test_a_plane_is_not_opened_with_wrong_credentials(variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        open_request_plane("tcp:", {variable: "/no/such"})


def test_another_host_may_connect_only_with_credentials_or_consent() -> None:
    with pytest.raises(ConfigError, match=r"DYN_CLUSTER_TOKEN.*insecure=1"):
        open_request_plane("tcp://192.0.2.1", {})
    open_request_plane("tcp://192.0.2.1", {"DYN_CLUSTER_TOKEN": LONG})
    open_request_plane("tcp://192.0.2.1?insecure=1", {})


# The handshake, without sockets.


def shake(client: Handshake, server: Handshake) -> None:
    """Exchange everything, the hellos first."""
    client_proof, server_proof = client.take(server.hello), server.take(client.hello)
    if server_proof is not None:
        client.take(server_proof)
    if client_proof is not None:
        server.take(client_proof)


@pytest.mark.parametrize("token", [None, TOKEN], ids=["no token", "a token"])
def test_two_sides_with_the_same_token_trust_each_other(token: Secret | None) -> None:
    client, server = Handshake("client", token), Handshake("server", token)
    shake(client, server)
    assert client.done
    assert server.done


@pytest.mark.parametrize(
    ("client_token", "server_token"),
    [(TOKEN, OTHER_TOKEN), (TOKEN, None), (None, TOKEN)],
    ids=["another", "only the client", "only the server"],
)
def test_a_caller_learns_that_the_tokens_differ(client_token: Secret | None, server_token: Secret | None) -> None:
    client, server = Handshake("client", client_token), Handshake("server", server_token)
    with pytest.raises(Unauthorized, match="DYN_CLUSTER_TOKEN"):
        shake(client, server)
    assert not client.done


@given(st.binary(max_size=100))
def test_no_proof_but_the_right_one_is_accepted(digest: bytes) -> None:
    server = Handshake("server", TOKEN)
    server.take(wire.Hello(nonce=bytes(NONCE_BYTES)))
    with pytest.raises(Unauthorized):
        server.take(wire.Proof(digest))
    assert not server.done


def test_a_proof_cannot_be_sent_back_to_who_made_it() -> None:
    server = Handshake("server", TOKEN)
    reflected = server.take(wire.Hello(nonce=server.hello.nonce))
    assert reflected is not None
    with pytest.raises(Unauthorized):
        server.take(reflected)


def test_a_proof_of_an_earlier_connection_is_worth_nothing() -> None:
    client, server = Handshake("client", TOKEN), Handshake("server", TOKEN)
    old_proof = client.take(server.hello)
    assert old_proof is not None
    another = Handshake("server", TOKEN)
    another.take(client.hello)
    with pytest.raises(Unauthorized):
        another.take(old_proof)


@pytest.mark.parametrize("nonce", [b"short", bytes(NONCE_BYTES - 1), bytes(NONCE_BYTES + 1), bytes(10_000)], ids=len)
def test_a_nonce_of_another_length_is_refused(nonce: bytes) -> None:
    with pytest.raises(Unauthorized):
        Handshake("server", TOKEN).take(wire.Hello(nonce=nonce))


@pytest.mark.parametrize("message", [wire.Proof(b""), wire.Heartbeat(), wire.Request(1, "1", b"", "r", 1)], ids=repr)
def test_nothing_comes_before_the_hello(message: wire.Message) -> None:
    with pytest.raises(ProtocolError, match="did not say hello first"):
        Handshake("server", TOKEN).take(message)


# The handshake, over sockets.


@pytest.fixture(params=["tcp", "unix"])
async def serving(request: pytest.FixtureRequest) -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=request.param == "unix", credentials=with_token(TOKEN))
    yield plane
    await plane.close()


async def test_a_token_opens_the_way(serving: TcpPlane) -> None:
    listener = await serving.listen(echo)
    calling = TcpPlane(credentials=with_token(TOKEN))
    assert await ask(calling, listener.address) == [b"hi"]
    large = bytes(4 << 20)  # right behind the handshake, and far above what a stranger may send
    assert await ask(calling, listener.address, large) == [large]
    await calling.close()


@pytest.mark.parametrize("token", [None, OTHER_TOKEN], ids=["no token", "another token"])
async def test_a_caller_without_the_token_is_refused_and_counted(
    serving: TcpPlane, token: Secret | None, caplog: pytest.LogCaptureFixture
) -> None:
    begun = []

    async def note(request: bytes, context: Context) -> AsyncIterator[bytes]:
        begun.append(request)
        yield request

    listener = await serving.listen(note)
    calling = TcpPlane(credentials=with_token(token))
    for _ in range(3):
        with pytest.raises(Unauthorized, match="DYN_CLUSTER_TOKEN"):
            await ask(calling, listener.address)
    await calling.close()
    await serving.close()
    assert begun == []
    assert calling.stats.hello_failures["unauthorized"] == 3
    assert serving.stats.hello_failures["unauthorized"] == 3
    assert serving.stats.num_connections == 0
    refusals = [record for record in caplog.records if "refusing a connection" in record.getMessage()]
    assert len(refusals) == 2  # one on each side, however often
    assert TOKEN.decode() not in caplog.text
    assert OTHER_TOKEN.decode() not in caplog.text


async def test_a_caller_with_a_token_sends_nothing_to_a_worker_without() -> None:
    serving, calling = TcpPlane(local=False), TcpPlane(credentials=with_token(TOKEN))
    listener = await serving.listen(echo)
    with pytest.raises(Unauthorized, match="DYN_CLUSTER_TOKEN"):
        await ask(calling, listener.address)
    await calling.close()
    await serving.close()


@pytest.fixture
async def guarded() -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False, credentials=with_token(TOKEN))
    yield plane
    await plane.close()


async def test_a_request_before_the_proof_is_not_taken(guarded: TcpPlane) -> None:
    begun = []

    async def note(request: bytes, context: Context) -> AsyncIterator[bytes]:
        begun.append(request)
        yield request

    listener = await guarded.listen(note)
    reader, writer = await connect(listener.address)
    writer.write(wire.encode([wire.Hello(nonce=bytes(NONCE_BYTES)), wire.Request(1, "1", b"steal", "r", 1024)]))
    kinds = [type(message) for message in await read_messages(reader)]
    assert kinds == [wire.Hello, wire.Proof]
    assert begun == []
    assert guarded.stats.hello_failures["unauthorized"] == 1
    writer.close()


async def test_a_proof_that_another_connection_was_given_is_refused(guarded: TcpPlane) -> None:
    listener = await guarded.listen(echo)
    oracle_reader, oracle = await connect(listener.address)
    reader, writer = await connect(listener.address)
    decoder, oracle_decoder = wire.Decoder(), wire.Decoder()
    (hello,) = await next_messages(reader, decoder, 1)
    await next_messages(oracle_reader, oracle_decoder, 1)
    assert isinstance(hello, wire.Hello)
    # Have the server prove itself to the nonce of its own other connection, and give that as our proof.
    oracle.write(wire.encode([wire.Hello(nonce=hello.nonce)]))
    (proof,) = await next_messages(oracle_reader, oracle_decoder, 1)
    writer.write(wire.encode([wire.Hello(nonce=bytes(NONCE_BYTES)), proof]))
    await until_closed(reader)
    assert guarded.stats.hello_failures["unauthorized"] == 1
    writer.close()
    oracle.close()


async def test_a_stranger_cannot_make_the_server_keep_much(guarded: TcpPlane) -> None:
    listener = await guarded.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(wire.HEADER.pack(wire.MAGIC, 0, 32 << 20) + bytes(8 * HELLO_FRAME_BYTES_MAX))
    await until_closed(reader)
    assert guarded.stats.frames_rejected["oversize_frame"] == 1
    writer.close()


async def test_a_stranger_who_stays_silent_is_cut_and_counted(guarded: TcpPlane) -> None:
    listener = await guarded.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(wire.encode([wire.Hello(nonce=bytes(NONCE_BYTES))]))  # and no proof
    await until_closed(reader)
    assert guarded.stats.hello_failures["no_hello"] == 1
    writer.close()


async def test_traffic_in_the_clear_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, and tells which address of ours others would see
        except OSError:
            pytest.skip("this host has no address but loopback")
        host = probe.getsockname()[0]
    serving, calling = (TcpPlane(host, local=False, credentials=with_token(TOKEN)) for _ in range(2))
    listener = await serving.listen(echo)
    assert "in the clear" in caplog.text
    assert await ask(calling, listener.address) == [b"hi"]
    await calling.close()
    await serving.close()
