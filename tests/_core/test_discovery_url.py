"""Which discovery a URL or the environment names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from dynamo._core.discovery import default_url, discovery_setting, discovery_url_from_env, open_discovery
from dynamo._core.discovery._etcd_url import open_etcd
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import ConfigError


def test_a_url_names_the_implementation(tmp_path: Path) -> None:
    assert isinstance(open_discovery("memory:"), MemoryDiscovery)
    assert isinstance(open_discovery(f"file://{tmp_path}"), FileDiscovery)


@pytest.mark.parametrize(
    "url",
    ["", "memory", "memory:x", "file:", "file:/a", "file://host/a", "file://a", "kubernetes:"],
)
def test_a_url_that_names_none_says_what_there_is(url: str) -> None:
    with pytest.raises(ConfigError, match="DYN_DISCOVERY") as raised:
        open_discovery(url)
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"DYN_DISCOVERY": "memory:"}, "memory:"),
        ({"DYN_DISCOVERY": "memory:", "DYN_DISCOVERY_BACKEND": "etcd"}, "memory:"),
        ({"DYN_DISCOVERY_BACKEND": "mem"}, "memory:"),
        ({"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": "/some/dir"}, "file:///some/dir"),
        ({"DYN_FILE_KV": "/some dir"}, "file:///some%20dir"),
        ({"DYN_DISCOVERY_BACKEND": "etcd"}, "etcd://localhost:2379"),
        ({"ETCD_ENDPOINTS": "http://h1:2379,http://h2:2379"}, "etcd://h1:2379,h2:2379"),
        ({"ETCD_ENDPOINTS": "https://h1:2379"}, "etcds://h1:2379"),
        ({"ETCD_ENDPOINTS": "h1:2379", "DYN_FILE_KV": "/a"}, "file:///a"),
    ],
)
def test_the_environment_names_the_url(environ: dict[str, str], url: str) -> None:
    assert discovery_url_from_env(environ) == url


def test_a_server_that_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are memory:, file:///some/dir and etcd://"):
        discovery_url_from_env({"DYN_DISCOVERY_BACKEND": "kubernetes"})


@pytest.mark.parametrize(
    "endpoints",
    ["http://a,https://b", "ftp://a", ",", "//", "http://[::1", "http://a:port", "http://a/path", "a:0", "http://a?x"],
)
def test_endpoints_of_etcd_that_make_no_sense_are_refused(endpoints: str) -> None:
    with pytest.raises(ConfigError, match="ETCD_ENDPOINTS"):
        discovery_url_from_env({"ETCD_ENDPOINTS": endpoints})


@pytest.mark.parametrize(
    "endpoints",
    ["http://root:secret@a", "http://a,http://root:secret@b", "root:secret@a:x", "root:secret", "a:1,root:secret"],
)
def test_endpoints_of_etcd_with_a_password_are_refused_without_it(endpoints: str) -> None:
    with pytest.raises(ConfigError, match="ETCD_AUTH_PASSWORD") as raised:
        discovery_url_from_env({"ETCD_ENDPOINTS": endpoints})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "rest",
    ["", "h1:port", "h1:0", "h1:65536", "h1:2379,,h2:2379", "h1?x=1", "h1#x", "[::1", ",".join(["h"] * 17), "h/\n"],
)
def test_a_url_of_etcd_that_names_no_host_is_refused_without_its_password(rest: str) -> None:
    for proof in ("", "root:secret@"):
        with pytest.raises(ConfigError, match="etcd://host:2379") as raised:
            open_discovery(f"etcd://{proof}{rest}")
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "etcd://root:secret",
        "etcd://root:se/secret@h1",
        "etcd:root:secret@h1",
        "etcd:",
        "etcd:h1",
    ],
)
def test_a_password_in_a_wrong_place_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="DYN_DISCOVERY") as raised:
        open_discovery(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "hosts", ["h1:2379,root:secret@h2:2379", "h1,root:secret@h2", "root:secret@h1,root:secret@h2", "root:se,secret@h1"]
)
def test_a_user_that_is_not_before_the_first_host_is_refused_and_loses_no_member(hosts: str) -> None:
    with pytest.raises(ConfigError, match="once, before the first host") as raised:
        open_discovery(f"etcd://{hosts}")
    assert "secret" not in str(raised.value)


def test_a_password_for_an_unknown_discovery_is_not_repeated() -> None:
    for url, shown in (("etdc://root:secret@h1:2379", "etdc://***@h1:2379"), ("etdc://root:secret", "etdc://root:***")):
        with pytest.raises(ConfigError, match=re.escape(repr(shown))) as raised:
            open_discovery(url)
        assert "secret" not in str(raised.value) + str(raised.value.details)


@pytest.mark.parametrize(
    ("environ", "missing"),
    [({"ETCD_AUTH_USERNAME": "root"}, "ETCD_AUTH_PASSWORD"), ({"ETCD_AUTH_PASSWORD": "secret"}, "ETCD_AUTH_USERNAME")],
)
def test_half_of_a_proof_for_etcd_is_refused(environ: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        open_etcd("etcd://h1", environ)


@pytest.mark.parametrize("variable", ["ETCD_AUTH_CA", "ETCD_AUTH_CLIENT_CERT", "ETCD_AUTH_CLIENT_KEY"])
def test_tls_files_for_an_etcd_without_tls_are_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is set.*write etcds://"):
        open_etcd("etcd://h1", {variable: "/some/file.pem"})


def test_a_key_for_etcd_without_its_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="ETCD_AUTH_CLIENT_CERT"):
        open_etcd("etcds://h1", {"ETCD_AUTH_CLIENT_KEY": "/some/key.pem"})


def test_an_encrypted_key_for_etcd_is_refused_and_asks_nobody_for_its_passphrase(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("client.test")
    for chain in certificate.cert_chain_pems:
        chain.write_to_path(str(tmp_path / "cert.pem"), append=True)
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*form))
    files = {"ETCD_AUTH_CLIENT_CERT": str(tmp_path / "cert.pem"), "ETCD_AUTH_CLIENT_KEY": str(tmp_path / "key.pem")}
    with pytest.raises(ConfigError, match=r"ETCD_AUTH_CLIENT_KEY=.*without a passphrase"):
        open_etcd("etcds://h1", files)


def test_tls_files_of_etcd_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_AUTH_CA", "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=r"ETCD_AUTH_CA=/nowhere/ca\.pem"):
        open_discovery("etcds://h1:2379")


def test_the_default_is_a_directory_of_the_user(tmp_path: Path) -> None:
    runtime, temporary = tmp_path / "run time", tmp_path / "tmp"
    runtime.mkdir()
    temporary.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(temporary)}
    assert default_url(environ) == discovery_url_from_env(environ) == f"file://{tmp_path}/run%20time/dynamo"
    assert (runtime / "dynamo").stat().st_mode & 0o777 == 0o700
    assert isinstance(open_discovery(default_url(environ)), FileDiscovery)
    runtime.rename(tmp_path / "gone")
    assert default_url(environ) == f"file://{temporary}/dynamo-{os.geteuid()}"


def test_a_default_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / f"dynamo-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod"):
        default_url({"TMPDIR": str(tmp_path)})


@pytest.mark.parametrize(
    ("environ", "setting"),
    [
        ({}, "DYN_DISCOVERY"),
        ({"DYN_DISCOVERY": "etcd://a", "ETCD_ENDPOINTS": "b"}, "DYN_DISCOVERY"),
        ({"ETCD_ENDPOINTS": "a:1"}, "ETCD_ENDPOINTS"),
        ({"DYN_DISCOVERY_BACKEND": "etcd", "ETCD_ENDPOINTS": "a:1"}, "ETCD_ENDPOINTS"),
        ({"DYN_DISCOVERY_BACKEND": "etcd"}, "DYN_DISCOVERY_BACKEND"),
        ({"DYN_DISCOVERY_BACKEND": "file", "ETCD_ENDPOINTS": "a:1"}, "DYN_DISCOVERY"),
        ({"DYN_FILE_KV": "/a", "ETCD_ENDPOINTS": "a:1"}, "DYN_DISCOVERY"),
    ],
)
def test_the_setting_that_an_error_names_is_the_one_that_decides(environ: dict[str, str], setting: str) -> None:
    assert discovery_setting(environ) == setting
