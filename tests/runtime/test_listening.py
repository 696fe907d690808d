"""Sockets for HTTP clients."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest

from dynamo.runtime._listening import bind, blames_host, fault_of, listen, url_of


def test_a_socket_that_is_only_bound_takes_no_connections() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname())


def test_a_socket_that_listens_takes_connections_before_anybody_accepts_them() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()


@pytest.mark.parametrize("open_socket", [bind, listen])
def test_a_port_in_use_is_not_the_fault_of_the_host(open_socket: Callable[[str, int], socket.socket]) -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use") as caught:
            open_socket("127.0.0.1", taken.getsockname()[1])
        assert not blames_host(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("192.0.2.1", id="of another machine"),
        pytest.param("no host", id="of none"),
        pytest.param("a" * 70, id="too long a label"),
        pytest.param("..", id="an empty label"),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_an_error_of_the_host(host: str) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        bind(host, 0)
    assert blames_host(caught.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("localhost", "http://localhost:80"), ("::1", "http://[::1]:80")],
)
def test_an_ipv6_address_stands_in_brackets_in_a_url(host: str, url: str) -> None:
    assert url_of(host, 80) == url


def test_what_can_be_no_host_is_known_without_asking_anybody() -> None:
    assert [fault_of(host) for host in ("127.0.0.1", "::1", "localhost", "example.com", "0.0.0.0")] == [""] * 5
    assert {fault_of(host) for host in ("999.1.1.1", "127.1", "5", "::g")} == {"that is no IP address"}
