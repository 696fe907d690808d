"""Which discovery a URL or the environment names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamo._core.discovery import default_url, discovery_url_from_env, open_discovery
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import ConfigError


def test_a_url_names_the_implementation(tmp_path: Path) -> None:
    assert isinstance(open_discovery("memory:"), MemoryDiscovery)
    assert isinstance(open_discovery(f"file://{tmp_path}"), FileDiscovery)


@pytest.mark.parametrize(
    "url",
    ["", "memory", "memory:x", "file:", "file:/a", "file://host/a", "file://a", "etcd://localhost:2379", "kubernetes:"],
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
    ],
)
def test_the_environment_names_the_url(environ: dict[str, str], url: str) -> None:
    assert discovery_url_from_env(environ) == url


@pytest.mark.parametrize(
    "environ",
    [
        {"DYN_DISCOVERY_BACKEND": "etcd"},
        {"DYN_DISCOVERY_BACKEND": "kubernetes"},
        {"ETCD_ENDPOINTS": "http://localhost:2379"},
    ],
)
def test_settings_for_servers_that_this_version_does_not_know_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="this version has memory: and file:"):
        discovery_url_from_env(environ)


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
