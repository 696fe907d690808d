"""Sockets for HTTP clients: bound before there is a server, so that a port in use is known at once."""

from __future__ import annotations

import errno
import ipaddress
import socket

#: Connections that wait while the event loop is busy with others.
BACKLOG = 2048

_FAULTS_OF_A_HOST = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and takes no connections yet; port 0 picks a free one. Raises `OSError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "no name that a host can have") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections from now on; port 0 picks a free one. Raises `OSError`."""
    listener = bind(host, port)
    try:
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def blames_host(error: OSError) -> bool:
    """Whether no port of that host could be had."""
    return isinstance(error, socket.gaierror) or error.errno in _FAULTS_OF_A_HOST


def fault_of(host: str) -> str:
    """Why `host` cannot be one; empty if it may be, which for a name only a resolver knows."""
    is_name = ":" not in host and not host.rpartition(".")[2].isdecimal()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "" if is_name else "that is no IP address"
    return ""


def url_of(host: str, port: int) -> str:
    """The URL of what listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
