"""Losing etcd loses no request: what was known goes on being served, and everybody registers again.

`ETCD_OUTAGE_S=60 scripts/test tests/system/test_etcd_outage.py` keeps etcd away for a minute instead of a little
longer than a lease lives.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.etcd_server import EtcdServer, etcd, etcd_cluster
from tests.system.etcd_load import (
    NUM_TOKENS,
    all_say,
    assert_all_run,
    cluster_on,
    loaded,
    registered,
    registered_again,
)
from tests.system.exact import assert_exact

from dynamo._core.discovery.base import LEASE_TTL_S

OUTAGE_S = float(os.environ.get("ETCD_OUTAGE_S", LEASE_TTL_S + 2))

pytestmark = pytest.mark.timeout(120 + OUTAGE_S)


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    async with etcd(tmp_path / "etcd") as member:
        yield member


async def test_etcd_is_killed_under_load_and_comes_back_without_its_data(
    member: EtcdServer, tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_on([member], tmp_path, tiny_model, workers=2) as made:
        await all_say(made, "ready")
        keys = await registered(member)
        async with loaded(made) as load:
            await member.wipe()
            said = await all_say(made, "degraded")
            assert all(member.url in str(one.degraded["reason"]) for one in said)
            served_before = load.num_exact
            await asyncio.sleep(OUTAGE_S)
            assert load.num_exact > served_before
            await all_say(made, "degraded")
            await member.start()
            await member.ready()
            await registered_again(member, keys)
            await all_say(made, "ready")
        assert_all_run(made)


async def test_a_worker_that_died_while_etcd_was_away_gets_nothing_though_etcd_has_it_again(
    member: EtcdServer, tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_on([member], tmp_path, tiny_model, workers=2) as made:
        keys = await registered(member)
        async with loaded(made) as load:
            await member.kill()
            dead = made.workers.pop()
            await dead.kill()
            await member.start()
            await member.ready()
            assert await registered(member) == keys, "etcd has given the dead worker's lease a new life"
            await load.more(20)
        await dead.close()


async def test_a_lease_that_is_lost_comes_again_with_the_same_instance_and_streams_do_not_notice(
    member: EtcdServer, tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_on([member], tmp_path, tiny_model, workers=1) as made:
        [key] = await registered(member)
        asking = await made.begin(["undisturbed"], 10 * NUM_TOKENS)
        await member.ctl("lease", "revoke", key.rpartition("/")[2])
        assert await registered(member) == set()
        await made.routable(0)
        await registered_again(member, {key})
        await made.routable(1)
        [answer] = await made.finish(asking)
        assert_exact(answer, "undisturbed", 10 * NUM_TOKENS)
        assert await made.migrations() == 0
        assert_exact(await made.ask("after", NUM_TOKENS), "after", NUM_TOKENS)


async def test_the_leader_of_three_members_is_lost_under_load_and_nobody_unregisters(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with etcd_cluster(tmp_path / "etcd") as members, cluster_on(members, tmp_path, tiny_model, workers=2) as made:
        keys = await registered(members[0])
        [leader] = [member for member in members if await is_leader(member)]
        followers = [member for member in members if member is not leader]
        async with loaded(made) as load:
            await leader.kill()
            await new_leader(followers)
            assert await registered(followers[0]) == keys
            await load.more(20)
            await all_say(made, "ready")
        assert len((await made.health()).instances) == 1
        assert_all_run(made)


async def is_leader(member: EtcdServer) -> bool:
    """Whether a member says that it leads."""
    said = await member.ctl("endpoint", "status", "-w", "fields")
    facts = dict(line.split(" : ", 1) for line in said.splitlines() if " : " in line)
    return facts['"Leader"'] == facts['"MemberID"']


async def new_leader(members: list[EtcdServer]) -> None:
    """Wait until one of these leads."""
    async with asyncio.timeout(20):
        while not any([await is_leader(member) for member in members]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
