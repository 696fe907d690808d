"""What discovery on etcd makes of a real etcd that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests._core.etcd_faults import HOLD_S, cut, discovery, distant, other, proxy, restart, server
from tests._core.etcd_watching import DEADLINE_S, degraded, next_change, until, watching, well
from tests.etcd_server import EtcdServer, etcd_cluster
from tests.system.fault_proxy import FaultProxy

from dynamo._core.discovery import Delete, Put
from dynamo._core.discovery.etcd import EtcdDiscovery
from dynamo._core.limits import ETCD_REPLY_BYTES_MAX, VALUE_BYTES_MAX

__all__ = ["discovery", "distant", "other", "proxy", "server"]  # fixtures


# etcd goes, and comes again.


async def test_a_restart_takes_nobody_away_and_the_watch_goes_on(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    await other.put("a/1", b"1", await other.grant())
    async with watching(discovery) as changes:
        await server.kill()
        await degraded(discovery)
        await restart(server)
        await other.put("a/2", b"2")
        assert await next_change(changes) == Put("a/2", b"2")
    await well(discovery)


async def test_data_that_is_lost_comes_again_under_the_same_lease_and_nobody_sees_it_go(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    lease = await other.grant(3.0)
    await other.put("a/1", b"1", lease)
    for number in range(10):
        await other.put("filler", b"%d" % number)
    async with watching(discovery) as changes:
        await server.wipe()
        await restart(server)
        async with asyncio.timeout(DEADLINE_S):
            while not await server.ctl("get", "a/1", "--print-value-only"):
                pass
        assert await server.ctl("get", "filler", "--print-value-only") == ""
        await other.put("a/2", b"2", lease)
        assert await next_change(changes) == Put("a/2", b"2")
    assert await discovery.get_prefix("a/") == {"a/1": b"1", "a/2": b"2"}
    assert other.status.leases_regranted == 1


async def test_a_key_whose_owner_died_with_etcds_data_is_gone_after_a_while(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    await other.put("a/1", b"1", await other.grant())
    async with watching(discovery) as changes:
        await server.wipe()
        await other.close()
        await restart(server)
        # More than before: the revision alone does not tell that the data is another.
        for number in range(10):
            await discovery.put("filler", b"%d" % number)
        assert await next_change(changes) == Delete("a/1")


async def test_an_etcd_that_hangs_longer_than_leases_live_takes_nobody_away(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    lease = await other.grant(2.0)
    await other.put("a/1", b"1", lease)
    async with watching(discovery) as changes:
        await server.stop()
        await degraded(discovery, other)
        await until(lambda: other.status.degraded_s() > 0.7)  # noticed after 1.8 s, so the lease has lived too long
        server.go_on()
        await until(lambda: other.status.leases_regranted == 1)  # so it had ended
        await well(discovery, other)
        await other.put("a/2", b"2", lease)
        assert await next_change(changes) == Put("a/2", b"2")


async def test_what_was_compacted_away_is_listed_again(
    server: EtcdServer, proxy: FaultProxy, distant: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    await other.put("a/1", b"1")
    await other.put("a/2", b"1")
    async with watching(distant) as changes:
        await cut(proxy, distant)
        await other.delete("a/1")
        await other.put("a/2", b"2")
        await server.ctl("put", "filler", "x")
        revision = (await server.ctl("get", "filler", "-w", "fields")).split('"Revision" : ')[1].split()[0]
        assert "compacted" in await server.ctl("compaction", revision)
        proxy.refuses = False
        assert await next_change(changes) == Put("a/2", b"2")
        assert await next_change(changes) == Delete("a/1")


@pytest.mark.parametrize("count", [6, ETCD_REPLY_BYTES_MAX // VALUE_BYTES_MAX])
async def test_what_came_while_a_watch_was_broken_is_told_however_much_it_is(
    proxy: FaultProxy, distant: EtcdDiscovery, other: EtcdDiscovery, count: int
) -> None:
    async with watching(distant) as changes:
        await cut(proxy, distant)
        values = {f"a/{number:02}": bytes([number]) * VALUE_BYTES_MAX for number in range(count)}
        for key, value in values.items():
            await other.put(key, value)
        proxy.refuses = False
        assert [await next_change(changes) for _ in values] == [Put(key, value) for key, value in values.items()]


# Several members.


async def test_two_of_three_members_are_enough_whichever_is_lost(tmp_path: Path) -> None:
    async with etcd_cluster(tmp_path) as servers:
        members = [server.url for server in servers]
        discovery, other = (EtcdDiscovery(members, hold_s=HOLD_S) for _ in range(2))
        lease = await other.grant()
        await other.put("a/always", b"", lease)
        async with watching(discovery) as changes:
            for number, server in enumerate(servers):
                await server.kill()
                await other.put(f"a/{number}", b"", lease)
                assert await next_change(changes) == Put(f"a/{number}", b"")
                await server.start(",".join(f"{s.name}={s.peer_url}" for s in servers))
                await server.ready()
        await discovery.close()
        await other.close()


async def test_members_without_a_leader_are_an_outage_that_takes_nobody_away(tmp_path: Path) -> None:
    async with etcd_cluster(tmp_path) as servers:
        members = [server.url for server in servers]
        discovery, other = (EtcdDiscovery(members, hold_s=HOLD_S) for _ in range(2))
        lease = await other.grant(2.0)
        for number in range(20):
            await other.put(f"a/{number}", b"", lease)
        async with watching(discovery) as changes:
            await servers[0].stop()
            await servers[1].stop()
            await degraded(discovery, other)  # though one of them answers
            await until(lambda: other.status.degraded_s() > 0.7)
            servers[0].go_on()
            servers[1].go_on()
            await well(discovery, other)
            await other.put("a/end", b"", lease)
            assert await next_change(changes) == Put("a/end", b"")
        await discovery.close()
        await other.close()


# What is known of it.


async def test_its_status_says_since_when_and_why_it_is_degraded(
    server: EtcdServer, discovery: EtcdDiscovery, other: EtcdDiscovery
) -> None:
    await other.grant(2.0)
    assert (other.status.reason, other.status.since, other.status.degraded_s()) == ("", None, 0.0)
    async with watching(discovery):
        await until(lambda: sum(other.status.renewal_buckets) > 0)
        await server.kill()
        await degraded(discovery, other)
        assert server.url in discovery.status.reason
        await until(lambda: discovery.status.degraded_s() > 0.5 and other.status.renew_failures > 0)
        await restart(server)
        await well(discovery, other)
    assert (discovery.status.reason, discovery.status.since) == ("", None)
