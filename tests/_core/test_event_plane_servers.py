"""Event planes on servers that are not there, or do not let us in; and the settings that say where they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests._core.event_planes import Opened, opened
from tests.conformance.event_plane import DEADLINE_S, meet
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.event_plane import event_plane_url_from_env, open_event_plane
from dynamo._core.event_plane.nats import NatsEventPlane

__all__ = ["opened"]


# Servers that are not there


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "nats://127.0.0.1:1,127.0.0.1:2", "tls://127.0.0.1:1"])
async def test_a_missing_server_is_an_error_that_names_the_setting(url: str) -> None:
    with pytest.raises(CannotConnect, match="DYN_EVENT_PLANE"):
        async with asyncio.timeout(DEADLINE_S):
            await open_event_plane(url, MemoryDiscovery())


async def test_a_frozen_server_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        server.stop()
        await server.until_stopped()
        with pytest.raises(CannotConnect, match="DYN_EVENT_PLANE"):
            async with asyncio.timeout(DEADLINE_S):
                await open_event_plane(server.url, MemoryDiscovery())


async def test_a_wrong_password_is_an_error_that_names_the_settings(opened: Opened, tmp_path: Path) -> None:
    async with nats_server(tmp_path, "--user", "us", "--pass", "secret") as server:
        for environ in ({}, {"NATS_AUTH_USERNAME": "us", "NATS_AUTH_PASSWORD": "wrong"}):
            with pytest.raises((ConfigError, CannotConnect), match="NATS_AUTH_PASSWORD") as raised:
                await NatsEventPlane.connect(server.url, environ)
            assert "wrong" not in str(raised.value)
        environ = {"NATS_AUTH_USERNAME": "us", "NATS_AUTH_PASSWORD": "secret"}
        opened(await NatsEventPlane.connect(server.url, environ))
        opened(await NatsEventPlane.connect(server.url.replace("//", "//us:secret@"), {}))


async def test_a_token_lets_us_in(opened: Opened, tmp_path: Path) -> None:
    async with nats_server(tmp_path, "--auth", "token") as server:
        opened(await NatsEventPlane.connect(server.url, {"NATS_AUTH_TOKEN": "token"}))
        with pytest.raises((ConfigError, CannotConnect), match="NATS_AUTH_TOKEN"):
            await NatsEventPlane.connect(server.url, {"NATS_AUTH_TOKEN": "no"})


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "",
        "zmq",
        "inproc",
        "kafka://h",
        "zmq://h:1",
        "zmq://1.2.3.4",
        "zmq://0.0.0.0?insecure=1",
        "zmq:?x=1",
        "zmq://h:x",
        "nats:",
        "nats://",
        "nats://h:x",
        "nats://h/x",
        "zmq://127.0.0.1/x",
        "zmq://203.0.113.1?insecure=1",
    ],
)
async def test_a_url_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="DYN_EVENT_PLANE"):
        await open_event_plane(url, MemoryDiscovery())


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "zmq:"),
        ({"DYN_EVENT_PLANE": "zmq"}, "zmq:"),
        ({"DYN_EVENT_PLANE": "inproc:"}, "inproc:"),
        ({"DYN_EVENT_PLANE": "zmq", "NATS_SERVER": "nats://h:1"}, "zmq:"),
        ({"NATS_SERVER": "nats://h:1"}, "nats://h:1"),
        ({"NATS_SERVER": "h:1"}, "nats://h:1"),
        ({"DYN_EVENT_PLANE": "nats"}, "nats://127.0.0.1:4222"),
        ({"DYN_EVENT_PLANE": "nats", "NATS_SERVER": "tls://h"}, "tls://h"),
        ({"DYN_EVENT_PLANE": "nats://a", "NATS_SERVER": "nats://b"}, "nats://a"),
    ],
)
def test_the_environment_names_the_url(environ: dict[str, str], url: str) -> None:
    assert event_plane_url_from_env(environ) == url


async def test_zmq_may_publish_on_ipv6(opened: Opened) -> None:
    plane = opened(await open_event_plane("zmq://[::1]", MemoryDiscovery()))
    await meet(plane, plane.subscribe("kv"))
