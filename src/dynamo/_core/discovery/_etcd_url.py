"""`etcd://user:password@h1:2379,h2:2379/root`: where etcd is, and who we are to it.

`etcds://` speaks TLS. What must not stand in a URL has a variable: ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD,
ETCD_AUTH_CA (whom to trust), ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY (who we are); the last three are
files. ETCD_ENDPOINTS is an older way to say the same: URLs of members, separated by commas. `/root` is for an
etcd that is shared: all our keys begin with `root/` then.

No message repeats a password, also not one that was put in a wrong place.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from dynamo._core._client_tls import TlsVariables
from dynamo._core._shown_url import without_password
from dynamo._core.discovery.base import Discovery
from dynamo._core.errors import ConfigError
from dynamo._core.limits import ETCD_ROOT_CHARS_MAX

if TYPE_CHECKING:
    from dynamo._core.discovery._etcd_gateway import Credentials

PORT = 2379
MEMBERS_MAX = 16
_SCHEMES = {"etcd": "http", "etcds": "https"}
_TLS = TlsVariables("etcd", "ETCD_AUTH_CA", "ETCD_AUTH_CLIENT_CERT", "ETCD_AUTH_CLIENT_KEY")


def open_etcd(url: str, environ: Mapping[str, str] = os.environ, *, setting: str = "DYN_DISCOVERY") -> Discovery:
    """Return the discovery on the etcd that `url` names, because `setting` says so.

    Raises `ConfigError`; nothing is connected yet.
    """
    try:
        from dynamo._core.discovery.etcd import EtcdDiscovery
    except ImportError as error:
        raise ConfigError(f"discovery on etcd needs {error.name}: install dynamo-serve[etcd]") from error
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _SCHEMES:
        raise _wrong(setting, "it has no host")
    where, _, root = rest.partition("/")
    proof, _, hosts = where.rpartition("@")
    if "@" in root:
        raise _wrong(
            setting, "a user or a password has / : @ ? or #, which are written as %2F %3A %40 %3F %23 in a URL"
        )
    if "@" in proof or "," in proof:
        raise _wrong(
            setting,
            "the user and the password stand in it once, before the first host; an @ in a password is %40, and a comma "
            "is %2C",
        )
    members = [_member(_SCHEMES[scheme], host.strip(), setting) for host in hosts.split(",")]
    if len(members) > MEMBERS_MAX:
        raise _wrong(setting, f"it names {len(members)} members; {MEMBERS_MAX} are the most")
    return EtcdDiscovery(
        members,
        credentials=_credentials(proof, environ),
        tls=_tls(scheme, environ, setting),
        root=_root(unquote(root), setting),
        setting=setting,
    )


def url_of_endpoints(endpoints: str) -> str:
    """Turn what ETCD_ENDPOINTS says into a URL of ours."""
    members = [member.strip() for member in endpoints.split(",")]
    try:
        parts = [urlsplit(member if "://" in member else f"http://{member}") for member in members if member]
        is_right = bool(parts) and all(_is_plain(part) for part in parts) and len({part.scheme for part in parts}) == 1
    except ValueError:
        is_right = False
    if not is_right:
        raise ConfigError(
            f"ETCD_ENDPOINTS is {without_password(endpoints)!r}; write http://h1:2379,http://h2:2379, or all https; a "
            "user and a password go into ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD",
            setting="ETCD_ENDPOINTS",
        )
    return ("etcds" if parts[0].scheme == "https" else "etcd") + "://" + ",".join(part.netloc for part in parts)


def _is_plain(part: SplitResult) -> bool:
    """Whether a member is a scheme, a host and a port, and nothing else."""
    has_more = part.path not in ("", "/") or part.query or part.fragment or "@" in part.netloc
    return part.scheme in ("http", "https") and bool(part.hostname) and part.port != 0 and not has_more


def _member(scheme: str, host: str, setting: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        name, port, is_plain = parts.hostname, PORT if parts.port is None else parts.port, _is_plain(parts)
    except ValueError:
        name, port, is_plain = None, PORT, False
    if not name or not is_plain:
        raise _wrong(setting, f"{without_password(host)!r} is no host, or has no port from 1 to 65535 after it")
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def _root(root: str, setting: str) -> str:
    root = root.strip("/")
    if len(root) > ETCD_ROOT_CHARS_MAX or not (root.isprintable() and root.isascii()):
        raise _wrong(
            setting, f"what stands after / is where our keys begin: at most {ETCD_ROOT_CHARS_MAX} printable characters"
        )
    return f"{root}/" if root else ""


def _credentials(proof: str, environ: Mapping[str, str]) -> Credentials | None:
    from dynamo._core.discovery._etcd_gateway import Credentials

    user, _, password = proof.partition(":")
    user = unquote(user) or environ.get("ETCD_AUTH_USERNAME", "")
    password = unquote(password) or environ.get("ETCD_AUTH_PASSWORD", "")
    if bool(user) != bool(password):
        given, missing = ("user", "PASSWORD") if user else ("password", "USERNAME")
        raise ConfigError(f"there is a {given} for etcd only: set ETCD_AUTH_{missing}", setting=f"ETCD_AUTH_{missing}")
    return Credentials(user, password) if user else None


def _tls(scheme: str, environ: Mapping[str, str], setting: str) -> ssl.SSLContext | None:
    if scheme == "etcds":
        return _TLS.context(environ)
    _TLS.refuse_without_tls(
        environ,
        "ETCD_ENDPOINTS has http://, which is without TLS: write https://"
        if setting == "ETCD_ENDPOINTS"
        else f"{setting} begins with etcd://, which is without TLS: write etcds://",
    )
    return None


def _wrong(setting: str, why: str) -> ConfigError:
    return ConfigError(
        f"{setting} is not the URL of an etcd: {why}; write etcd://host:2379, several hosts separated by commas",
        setting=setting,
    )
