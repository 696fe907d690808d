"""Sockets that notice a dead peer."""

from __future__ import annotations

import socket

import pytest

from dynamo._core.watched_socket import watch_for_dead_peer, watched_socket


def test_a_watched_socket_gives_a_dead_peer_three_seconds() -> None:
    with watched_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ())) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        ] == [1, 1, 3, 3000]


def test_a_socket_that_is_no_tcp_is_made_all_the_same() -> None:
    """Whoever connects by it has no dead host to fear."""
    with watched_socket((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "")) as made:
        assert made.family == socket.AF_UNIX
        with pytest.raises(OSError, match="not supported"):
            watch_for_dead_peer(made)
