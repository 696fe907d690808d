"""Runtimes as 0.x and 1.x made them, and what they kept in etcd."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect, ConfigError, NotFound
from dynamo.runtime import DistributedRuntime, InvalidArgument, NoInstances
from dynamo.runtime._compat import EtcdClient, EtcdKvCache

DEADLINE_S = 60.0
TIMEOUT_S = 90
OLDER = r"async with DistributedRuntime\("


async def count(request: str) -> int:
    return len(request.split())


@pytest.fixture(autouse=True)
def planes_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DYN_DISCOVERY_BACKEND", "ETCD_ENDPOINTS", "DYN_FILE_KV", "NATS_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DYN_DISCOVERY", "memory:")
    monkeypatch.setenv("DYN_REQUEST_PLANE", "inproc:")


def of_0x() -> DistributedRuntime:
    return DistributedRuntime(asyncio.get_running_loop(), False)


def of_0x_by_name() -> DistributedRuntime:
    return DistributedRuntime(event_loop=asyncio.get_running_loop(), is_static=True)  # type: ignore[call-overload,no-any-return]


def of_1x() -> DistributedRuntime:
    return DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp", True)


def of_1x_without_nats() -> DistributedRuntime:
    return DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp", event_plane="zmq")


@pytest.mark.parametrize("make", [of_0x, of_0x_by_name, of_1x, of_1x_without_nats, DistributedRuntime.detached])
async def test_a_runtime_that_was_made_in_an_older_way_serves_and_calls(make: Callable[[], DistributedRuntime]) -> None:
    with pytest.warns(DeprecationWarning, match=OLDER):
        runtime = make()
    served = await runtime.serve("ns.comp.ep", count)
    client = await runtime.namespace("ns").component("comp").endpoint("ep").client()
    assert [item async for item in await client.direct("one two", served.instance_id, annotated=False)] == [2]
    runtime.shutdown()
    await until_left(runtime)


async def test_it_leaves_when_it_is_shut_down() -> None:
    with pytest.warns(DeprecationWarning, match=OLDER):
        runtime = of_0x()
    served = await runtime.serve("ns.comp.ep", count)
    runtime.shutdown()
    await until_left(runtime)
    assert not served.is_open


def test_it_leaves_when_its_loop_ends(tmp_path: Path) -> None:
    program = """
import asyncio
from dynamo.runtime import DistributedRuntime
async def main():
    runtime = DistributedRuntime(asyncio.get_running_loop(), False)
    component = runtime.namespace("ns").component("comp")
    await component.create_service()
    async def one(request): return 1
    serving = asyncio.create_task(component.endpoint("ep").serve_endpoint(one))
    client = await component.endpoint("ep").client()
    await client.wait_for_instances()
    print("served", component.endpoint("ep").lease_id() > 0)
asyncio.run(main())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    (tmp_path / "discovery").mkdir(mode=0o700)
    environment = {"DYN_DISCOVERY": f"file://{tmp_path}/discovery", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr, done.returncode) == ("served True\n", "", 0)
    assert not [path for path in (tmp_path / "discovery").rglob("*") if path.is_file() and "instances" in str(path)]


async def test_what_prevents_joining_is_told_to_each_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://127.0.0.1:1")
    with pytest.warns(DeprecationWarning, match=OLDER):
        runtime = DistributedRuntime(asyncio.get_running_loop(), "etcd", "tcp")
    for _ in range(2):
        with pytest.raises(CannotConnect, match=r"127\.0\.0\.1:1"):
            await runtime.client("ns.comp.ep")


async def test_one_may_be_entered_as_any_other() -> None:
    with pytest.warns(DeprecationWarning, match=OLDER):
        runtime = of_1x()
    async with runtime:
        await runtime.serve("ns.comp.ep", count)
        assert runtime.lease.id > 0


async def test_one_that_has_joined_by_itself_is_entered_as_what_it_is() -> None:
    with pytest.warns(DeprecationWarning, match=OLDER):
        runtime = of_0x()
    served = await runtime.serve("ns.comp.ep", count)
    async with runtime:
        assert runtime.lease.id == served.instance_id
    assert not served.is_open


async def test_an_older_backend_that_there_is_not_is_refused() -> None:
    with (
        pytest.warns(DeprecationWarning, match=OLDER),
        pytest.raises(ConfigError, match="discovery_backend='zookeeper': give one of"),
    ):
        DistributedRuntime(asyncio.get_running_loop(), "zookeeper", "tcp")


async def test_a_request_plane_that_there_is_not_is_refused() -> None:
    with (
        pytest.warns(DeprecationWarning, match=OLDER),
        pytest.raises(ConfigError, match="request_plane='nats': give tcp, or a URL"),
    ):
        DistributedRuntime(asyncio.get_running_loop(), "mem", "nats")


async def test_a_url_in_the_place_of_the_loop_is_told_where_it_belongs() -> None:
    with pytest.raises(TypeError, match="event_loop='memory:' is of type str: give nothing: name discovery="):
        DistributedRuntime("memory:")  # type: ignore[call-overload]


async def until_left(runtime: DistributedRuntime) -> None:
    """Wait until what keeps it joined has ended."""
    keepers = [task for task in asyncio.all_tasks() if task.get_name() == "keep a runtime joined"]
    await asyncio.wait_for(asyncio.gather(*keepers), DEADLINE_S)


# What was kept in etcd.


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


@pytest.fixture
def etcd(runtime: DistributedRuntime) -> EtcdClient:
    with pytest.warns(DeprecationWarning, match=r"use `runtime.discovery`"):
        return runtime.etcd_client()


async def cache(etcd: EtcdClient, values: dict[str, bytes]) -> EtcdKvCache:
    with pytest.warns(DeprecationWarning, match=r"use `runtime.discovery`"):
        return await EtcdKvCache.create(etcd, "models/", values)


async def test_a_key_is_created_once(etcd: EtcdClient) -> None:
    await etcd.kv_create("a/b", b"1")
    with pytest.raises(InvalidArgument, match="failed to create key 'a/b'"):
        await etcd.kv_create("a/b", b"1")
    await etcd.kv_create_or_validate("a/b", b"1")
    with pytest.raises(InvalidArgument, match="failed to create or validate key 'a/b'"):
        await etcd.kv_create_or_validate("a/b", b"2")


async def test_what_is_below_a_prefix_is_a_list_of_keys_and_values(etcd: EtcdClient) -> None:
    await etcd.kv_put("a/b", b"1")
    await etcd.kv_put("a/b", b"2")
    await etcd.kv_create_or_validate("a/c", b"3")
    await etcd.kv_put("b", b"4")
    assert await etcd.kv_get_prefix("a/") == [{"key": "a/b", "value": b"2"}, {"key": "a/c", "value": b"3"}]


async def test_a_value_lives_as_long_as_the_process_that_put_it_there() -> None:
    discovery = MemoryDiscovery()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        with pytest.warns(DeprecationWarning, match="etcd_client"):
            await runtime.etcd_client().kv_put("a", b"1")
        assert await discovery.get_prefix("a") == {"a": b"1"}
    assert await discovery.get_prefix("a") == {}


async def test_revoking_a_lease_takes_what_lives_by_it(runtime: DistributedRuntime, etcd: EtcdClient) -> None:
    lease = await runtime.grant_custom_lease(10)
    await etcd.kv_put("a", b"1", lease.id())
    await etcd.kv_put("b", b"2", etcd.primary_lease_id())
    await etcd.revoke_lease(lease.id())
    assert await runtime.discovery.get_prefix("") == {"b": b"2"}
    assert not runtime.primary_token().is_cancelled()


async def test_revoking_the_lease_of_the_process_ends_its_runtime(
    runtime: DistributedRuntime, etcd: EtcdClient
) -> None:
    await runtime.serve("ns.comp.ep", count)
    await etcd.revoke_lease(etcd.primary_lease_id())
    assert runtime.primary_token().is_cancelled()
    with pytest.raises(NoInstances):
        await (await runtime.client("ns.comp.ep")).generate(None)


async def test_a_lease_of_another_process_is_not_revoked_here(etcd: EtcdClient) -> None:
    with pytest.raises(NotFound, match="no lease of this process has the id 12345"):
        await etcd.revoke_lease(12345)
    with pytest.raises(NotFound):
        await etcd.kv_put("a", b"1", 12345)


async def test_a_cache_keeps_what_is_there_and_adds_what_is_not(etcd: EtcdClient) -> None:
    await etcd.kv_put("models/a", b"older")
    values = await cache(etcd, {"a": b"1", "b": b"2"})
    assert await values.get_all() == {"a": b"older", "b": b"2"}
    await values.put("c", b"3")
    assert (await values.get("c"), await values.get("d"), await values.get("d", b"4")) == (b"3", None, b"4")
    await values.delete("a")
    assert await values.get_all() == {"b": b"2", "c": b"3"}


async def test_a_cache_refuses_a_key_that_is_no_text(etcd: EtcdClient) -> None:
    with pytest.raises(TypeError, match="initial_values=1 is of type int: give a dict of str to bytes"):
        await cache(etcd, {1: b"1"})  # type: ignore[dict-item]


async def test_a_cache_sees_what_others_put(etcd: EtcdClient) -> None:
    values = await cache(etcd, {})
    await etcd.kv_put("models/a", b"1")
    await etcd.kv_put("models/ab", b"2")
    assert await values.get("a") == b"1"
