"""The sockets of services: bound before anything is started, and handed on to the workers that follow."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dynamo._core.errors import ConfigError
from dynamo.sdk._plan import HttpAddress, PlannedService
from dynamo.sdk._sockets import Sockets


def planned(name: str, port: int = 0, host: str = "127.0.0.1") -> PlannedService:
    return PlannedService(name, 1, {}, HttpAddress(host, port))


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.keep([])


def test_a_service_is_given_the_socket_that_it_had_before(sockets: Sockets) -> None:
    first = sockets.bind([planned("Web"), PlannedService("Worker", 1, {}, None)])
    assert first.keys() == {"Web"}
    assert sockets.bind([planned("Web")]) == first


def test_services_on_free_ports_have_a_socket_each(sockets: Sockets) -> None:
    bound = sockets.bind([planned("Web"), planned("Admin")])
    assert bound["Web"] is not bound["Admin"]
    assert sockets.url_of(planned("Web")) == f"http://127.0.0.1:{bound['Web'].getsockname()[1]}"


def test_what_no_service_uses_is_closed(sockets: Sockets) -> None:
    bound = sockets.bind([planned("Web"), planned("Admin")])
    sockets.keep([planned("Admin")])
    assert bound["Web"].fileno() == -1
    assert bound["Admin"].fileno() != -1


def test_an_address_that_cannot_be_had_leaves_what_was_bound_before(sockets: Sockets) -> None:
    before = sockets.bind([planned("Web")])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} of 127.0.0.1 is in use, so Admin cannot listen on it"):
            sockets.bind([planned("Web"), planned("Other"), planned("Admin", port)])
    assert sockets.bind([planned("Web")]) == before
    with pytest.raises(KeyError):
        sockets.url_of(planned("Other"))


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a" * 70])
def test_a_host_that_cannot_be_listened_on_is_named(sockets: Sockets, host: str) -> None:
    with pytest.raises(ConfigError, match=f"^Web cannot listen on port 80 of {host}: "):
        sockets.bind([planned("Web", 80, host)])
