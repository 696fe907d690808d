"""Where NATS is and who we are to it: what is understood, and what is refused rather than ignored."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from urllib.parse import urlparse

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.conformance.event_plane import DEADLINE_S, meet
from tests.free_port import free_port
from tests.nats_server import nats_server

from dynamo._core._nats import NatsServers
from dynamo._core._nats_transport import LookingUp
from dynamo._core._nats_url import nats_setting
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.event_plane import check_event_plane_url, event_plane_url_from_env
from dynamo._core.event_plane.nats import NatsEventPlane
from dynamo._core.work_queue import check_work_queue_url, work_queue_url_from_env

SETTING = "DYN_EVENT_PLANE"


def servers(url: str, **environ: str) -> NatsServers:
    return NatsServers.from_url(url, SETTING, environ)


# Who we are.


def test_a_name_and_its_password_are_of_the_url_or_of_the_environment() -> None:
    given = servers("nats://us:p%40ss@h1,h2:1")
    assert (given.user, given.password, given.token) == ("us", "p@ss", None)
    assert given.urls == ("nats://h1:4222", "nats://h2:1")
    given = servers("nats://h1", NATS_AUTH_USERNAME="us", NATS_AUTH_PASSWORD="secret")
    assert (given.user, given.password, given.token) == ("us", "secret", None)
    given = servers("nats://us@h1", NATS_AUTH_PASSWORD="secret")
    assert (given.user, given.password, given.token) == ("us", "secret", None)


def test_a_name_alone_in_the_url_is_a_token_as_nats_has_it() -> None:
    given = servers("nats://t0ken@h1")
    assert (given.user, given.password, given.token) == (None, None, "t0ken")


@pytest.mark.parametrize(
    ("environ", "missing"),
    [({"NATS_AUTH_USERNAME": "us"}, "NATS_AUTH_PASSWORD"), ({"NATS_AUTH_PASSWORD": "secret"}, "NATS_AUTH_USERNAME")],
)
def test_half_of_a_proof_is_refused(environ: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"set {missing}") as raised:
        servers("nats://h1", **environ)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("where", ["us:secret@h1,us:secret@h2", "h1:4222,us:secret@h2", "h1,us:secret@h2"])
def test_a_proof_that_is_not_before_the_first_server_only_is_refused_and_not_shown(where: str) -> None:
    with pytest.raises(ConfigError, match="before the first server") as raised:
        servers(f"nats://{where}")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("where", ["us:secret", "h1:4222,us:secret", "us:secret/", "us:se/secret"])
def test_a_password_whose_server_was_forgotten_is_not_shown(where: str) -> None:
    with pytest.raises(ConfigError, match=r"name:password@ before the first") as raised:
        servers(f"nats://{where}")
    assert "secret" not in str(raised.value)


def test_each_server_may_have_a_scheme_as_nats_own_clients_want_it() -> None:
    assert servers("nats://a:1,nats://b:2").urls == ("nats://a:1", "nats://b:2")
    assert servers("tls://us:secret@a, tls://b").urls == ("tls://a:4222", "tls://b:4222")
    with pytest.raises(ConfigError, match=SETTING):
        servers("nats://a,tls://b")


@pytest.mark.parametrize(
    ("url", "environ", "setting"),
    [
        ("nats://h:1", {"NATS_SERVER": "h:1"}, "NATS_SERVER"),
        ("nats://h:1", {"NATS_SERVER": "nats://h:1", SETTING: "nats"}, "NATS_SERVER"),
        ("nats://h:1", {"NATS_SERVER": "nats://h:1", SETTING: "nats://h:1"}, SETTING),
        ("nats://h:2", {"NATS_SERVER": "nats://h:1"}, SETTING),
        ("nats://127.0.0.1:4222", {SETTING: "nats"}, SETTING),
    ],
)
def test_an_error_names_the_variable_that_was_set(url: str, environ: dict[str, str], setting: str) -> None:
    assert nats_setting(url, SETTING, environ) == setting


def test_a_nats_server_that_is_none_is_refused_by_its_own_name() -> None:
    for read in (event_plane_url_from_env, work_queue_url_from_env):
        with pytest.raises(ConfigError, match=r"^NATS_SERVER='http://h:1' does not say where NATS is"):
            read({"NATS_SERVER": "http://h:1"})


def test_who_we_are_is_not_shown_with_the_servers() -> None:
    assert "secret" not in repr(servers("nats://us:secret@h1")) + repr(servers("nats://secret@h1"))


@pytest.mark.parametrize("url", ["nat://us:secret@h1", "nat://us:secret", "us:secret", "nat://h1:1,us:secret"])
def test_a_password_for_an_unknown_plane_or_queue_is_not_shown(url: str) -> None:
    for check in (check_event_plane_url, check_work_queue_url):
        with pytest.raises(ConfigError, match="names no known") as raised:
            check(url)
        assert "secret" not in str(raised.value)


async def test_a_token_in_the_url_lets_us_in(tmp_path: Path) -> None:
    async with nats_server(tmp_path, "--auth", "t0ken") as server:
        plane = await NatsEventPlane.connect(server.url.replace("//", "//t0ken@"), {})
        await plane.close()


async def test_a_file_of_credentials_says_what_it_needs(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["nkeys"] = None  # as if it were not installed
from dynamo._core._nats import NatsServers
from dynamo._core.errors import ConfigError
try:
    NatsServers.from_url("nats://h1", "DYN_WORK_QUEUE", {"NATS_AUTH_CREDENTIALS_FILE": "us.creds"})
except ConfigError as error:
    print(error)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE, stderr=STDOUT)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert said.decode() == "NATS_AUTH_CREDENTIALS_FILE needs nkeys: pip install 'nats-py[nkeys]'\n"


async def test_what_nats_forbids_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        'authorization { users: [{user: us, password: secret, permissions: {publish: ">", subscribe: {deny: ">"}}}] }'
    )
    async with nats_server(tmp_path / "data", "-c", str(config)) as server:
        plane = await NatsEventPlane.connect(server.url.replace("//", "//us:secret@"), {})
        plane.subscribe("kv")
        async with asyncio.timeout(DEADLINE_S):
            while "give its user the permission" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [record.levelno for record in caplog.records if "permission" in record.message] == [logging.ERROR]
        await plane.close()


# What is not there.


async def test_servers_that_refuse_a_connection_are_not_tried_again_at_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dynamo._core._nats")
    ports = [free_port(), free_port()]
    where = NatsServers.from_url(",".join(f"nats://127.0.0.1:{port}" for port in ports), "NATS_SERVER", {})
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(CannotConnect, match=r"NATS_SERVER: cannot connect.*Connect call failed"):
            await where.connect(lambda: None)
    refusals = [record.getMessage() for record in caplog.records]  # of the last one its client tells twice
    assert sum(f"('127.0.0.1', {ports[0]})" in refusal for refusal in refusals) <= 2
    assert len(refusals) == len(ports) + 1


async def test_a_host_that_nobody_knows_is_not_asked_for_again() -> None:
    where = servers("nats://no-such-host.invalid")
    with pytest.raises(CannotConnect, match=r"'no-such-host.invalid' is not known to the resolver"):
        await where.connect(lambda: None)


# Hosts.


async def test_a_host_that_has_a_name_is_found(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        plane = await NatsEventPlane.connect(server.url.replace("127.0.0.1", "localhost"), {})
        await meet(plane, plane.subscribe("kv"))
        await plane.close()


@pytest.mark.parametrize("turns", range(8))
async def test_who_stops_connecting_stops_though_it_is_refused_just_then(turns: int) -> None:
    where = urlparse(f"nats://127.0.0.1:{free_port()}")
    connecting = asyncio.create_task(LookingUp().connect(where, 1 << 16, 10))
    for _ in range(turns):
        await asyncio.sleep(0)
    was_connecting = connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled() == was_connecting


# TLS.


@pytest.mark.parametrize("variable", ["NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY"])
def test_tls_files_for_a_nats_without_tls_are_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is set.*{SETTING}.*write tls://"):
        servers("nats://h1", **{variable: "/some/file.pem"})


def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="NATS_TLS_KEY is set without NATS_TLS_CERT"):
        servers("tls://h1", NATS_TLS_KEY="/some/key.pem")


def test_an_encrypted_key_is_refused_and_asks_nobody_for_its_passphrase(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("client.test")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*form))
    files = {"NATS_TLS_CERT": str(tmp_path / "cert.pem"), "NATS_TLS_KEY": str(tmp_path / "key.pem")}
    with pytest.raises(ConfigError, match=r"NATS_TLS_KEY=.*without a passphrase"):
        servers("tls://h1", **files)
