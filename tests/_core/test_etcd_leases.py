"""What becomes of leases and their keys when a real etcd fails."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from tests._core.etcd_faults import cut, discovery, distant, num_keys, num_leases, other, proxy, restart, server
from tests._core.etcd_watching import DEADLINE_S, degraded, next_change, until, watching, well
from tests.etcd_server import EtcdServer
from tests.system.fault_proxy import FaultProxy

from dynamo._core.discovery import Delete, Put
from dynamo._core.discovery.etcd import EtcdDiscovery
from dynamo._core.errors import DynamoError, NotFound

__all__ = ["discovery", "distant", "other", "proxy", "server"]  # fixtures


async def test_a_lease_that_etcd_has_ended_is_granted_again_with_its_keys(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    lease = await other.grant(3.0)
    await other.put("a/1", b"1", lease)
    async with watching(discovery) as changes:
        await server.ctl("lease", "revoke", f"{lease.id:x}")
        assert await next_change(changes) == Delete("a/1")
        assert await next_change(changes) == Put("a/1", b"1")


async def test_a_put_with_a_lease_that_etcd_has_ended_grants_it_again_at_once(
    server: EtcdServer, discovery: EtcdDiscovery
) -> None:
    lease = await discovery.grant()
    await discovery.put("a/1", b"1", lease)
    await server.ctl("lease", "revoke", f"{lease.id:x}")
    assert await discovery.create("a/2", b"2", lease)
    assert await discovery.get_prefix("") == {"a/1": b"1", "a/2": b"2"}
    assert f"{lease.id:x}" in await server.ctl("lease", "list")


async def test_a_key_that_was_lost_without_its_lease_comes_again_after_the_next_outage(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    await distant.put("a/1", b"1", await distant.grant(2.0))
    proxy.refuses = True
    assert proxy.reset() > 0
    assert await server.ctl("del", "a/1") == "1\n"
    await degraded(distant)
    proxy.refuses = False
    async with asyncio.timeout(DEADLINE_S):
        while not await server.ctl("get", "a/1", "--print-value-only"):
            pass


async def test_a_process_that_alone_cannot_reach_etcd_is_gone_with_its_lease_and_returns(
    proxy: FaultProxy, distant: EtcdDiscovery, discovery: EtcdDiscovery
) -> None:
    await distant.put("a/1", b"1", await distant.grant(2.0))
    async with watching(discovery) as changes:
        proxy.to_worker.hold()
        proxy.to_caller.hold()
        await degraded(distant)
        assert await next_change(changes) == Delete("a/1")
        proxy.to_worker.let_go()
        proxy.to_caller.let_go()
        assert await next_change(changes) == Put("a/1", b"1")
    assert not discovery.status.is_degraded


async def test_a_key_that_another_took_while_the_lease_was_lost_stays_theirs_and_that_is_said(
    server: EtcdServer,
    proxy: FaultProxy,
    distant: EtcdDiscovery,
    discovery: EtcdDiscovery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lease = await distant.grant(2.0)
    await distant.put("a/1", b"ours", lease)
    await distant.put("a/2", b"ours", lease)
    await cut(proxy, distant)
    await server.ctl("lease", "revoke", f"{lease.id:x}")
    await discovery.put("a/1", b"theirs")
    proxy.refuses = False
    await until(lambda: distant.status.leases_regranted == 1)
    await well(distant)
    assert "'a/1' is another's now" in caplog.text
    assert await discovery.get_prefix("a/") == {"a/1": b"theirs", "a/2": b"ours"}


async def test_a_lease_that_is_granted_while_its_discovery_closes_is_kept_by_nobody(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    await distant.grant()
    proxy.to_caller.hold()
    granting = asyncio.create_task(distant.grant())
    await num_leases(server, 2)
    closing = asyncio.create_task(distant.close())
    await num_leases(server, 1)  # the first one is gone, and neither of them has heard an answer
    proxy.to_caller.let_go()
    await closing
    with pytest.raises(DynamoError, match="closed"):
        await granting
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("keep the lease")]


async def test_what_is_deleted_while_etcd_is_away_is_deleted_when_it_is_back(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    lease = await other.grant(3.0)
    await other.put("a/1", b"1", lease)
    await other.put("a/2", b"2", lease)
    async with watching(discovery) as changes:
        await server.kill()
        await other.delete("a/1")
        await restart(server)
        assert await next_change(changes) == Delete("a/1")
    assert await discovery.get_prefix("a/") == {"a/2": b"2"}


async def test_what_its_owner_gave_up_deleting_while_etcd_hung_is_deleted_all_the_same(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    lease = await other.grant(3.0)
    for number in range(3):
        await other.put(f"a/{number}", b"", lease)
    async with watching(discovery) as changes:
        await server.stop()
        asked = asyncio.create_task(other.delete("a/0"))
        behind_it = asyncio.create_task(other.delete("a/1"))  # and waits for its turn
        await asyncio.sleep(0)
        for deleting in (asked, behind_it):
            deleting.cancel()
            await asyncio.wait([deleting])
        server.go_on()
        assert {await next_change(changes), await next_change(changes)} == {Delete("a/0"), Delete("a/1")}
    assert await discovery.get_prefix("a/") == {"a/2": b""}


async def test_a_key_that_moves_to_another_lease_while_its_first_one_is_restored_stays_there(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    first = await distant.grant(2.0)
    for number in range(20):
        await distant.put(f"a/{number:02}", b"old", first)
    proxy.to_worker.delay_s = 0.02
    await server.ctl("lease", "revoke", f"{first.id:x}")
    second = await distant.grant()
    await until(lambda: distant.status.leases_regranted == 1)
    await distant.put("a/18", b"new", second)
    await distant.delete("a/19")
    await num_keys(server, 19)
    assert await server.ctl("get", "a/18", "--print-value-only") == "new\n"
    renewals = sum(distant.status.renewal_buckets)
    await until(lambda: sum(distant.status.renewal_buckets) >= renewals + 4)  # so both leases are kept
    await num_keys(server, 19)
    assert (distant.status.renew_failures, distant.status.leases_regranted) == (0, 1)


async def test_a_lease_whose_keys_take_longer_to_put_than_it_lives_is_restored(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    lease = await distant.grant(2.0)
    for number in range(30):
        await distant.put(f"a/{number}", b"", lease)
    proxy.to_worker.delay_s = 0.1
    await server.ctl("lease", "revoke", f"{lease.id:x}")
    await num_keys(server, 30)
    assert (distant.status.renew_failures, distant.status.leases_regranted) == (0, 1)


async def test_nothing_is_put_for_a_lease_that_is_closed_while_it_is_restored(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    lease = await distant.grant()
    await distant.put("a/1", b"", lease)
    await server.ctl("lease", "revoke", f"{lease.id:x}")
    num_bytes, proxy.to_caller.delay_s = proxy.to_caller.num_bytes, 0.3
    putting = asyncio.create_task(distant.put("a/2", b"", lease))
    await until(lambda: proxy.to_caller.num_bytes > num_bytes)  # now it knows that the lease is lost
    await lease.close()
    with pytest.raises(NotFound, match="is closed"):
        await putting
    assert await server.ctl("get", "--prefix", "a/") == ""


async def test_a_lease_ends_though_who_closes_it_gives_up_and_others_wait_for_the_end(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery
) -> None:
    lease = await distant.grant()
    proxy.to_worker.hold()
    impatient, patient = asyncio.create_task(lease.close()), asyncio.create_task(lease.close())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert not patient.done()
    proxy.to_worker.let_go()
    await patient
    assert "found 0 leases" in await server.ctl("lease", "list")


async def test_a_lease_that_is_closed_while_etcd_is_away_is_no_error_and_keeps_nobody(
    server: EtcdServer, discovery: EtcdDiscovery
) -> None:
    lease = await discovery.grant()
    await discovery.put("a/1", b"1", lease)
    await server.kill()
    async with asyncio.timeout(DEADLINE_S):
        await discovery.close()


async def test_who_leaves_while_etcd_is_away_does_not_say_that_it_is_well_again(
    server: EtcdServer, discovery: EtcdDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    await discovery.put("a/1", b"1", await discovery.grant(3.0))
    async with watching(discovery, "a/"):
        await server.kill()
        await degraded(discovery)
    await discovery.close()
    assert "is degraded" in caplog.text
    assert "well again" not in caplog.text


async def test_short_leases_beside_long_ones_live_whatever_the_wall_clock_says(
    discovery: EtcdDiscovery, other: EtcdDiscovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = await other.grant(30.0), await other.grant(2.0)
    await other.put("a/long", b"", long)
    await other.put("a/short", b"", short)
    real = time.time
    async with watching(discovery) as changes:
        for seconds, renewals in ((3600, 3), (-3600, 6)):
            monkeypatch.setattr(time, "time", partial(lambda seconds: real() + seconds, seconds))
            await until(partial(lambda least: sum(other.status.renewal_buckets) >= least, renewals))
        await other.put("a/end", b"")
        assert await next_change(changes) == Put("a/end", b"")
    assert (other.status.renew_failures, other.status.leases_regranted) == (0, 0)
