"""Discovery through files that somebody has removed, broken, forged or flooded."""

# ruff: noqa: ASYNC110, ASYNC230, ASYNC240 - what is tested are tiny files, which tell nobody when they change

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests._core.members import DEADLINE_S, eventually, member, read, synced

from dynamo._core.discovery import Delete, Put
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.errors import Overloaded


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "discovery"


@pytest_asyncio.fixture
async def discovery(directory: Path) -> AsyncIterator[FileDiscovery]:
    discovery = FileDiscovery(directory)
    yield discovery
    await discovery.close()


# Files that are not as they should be


async def test_a_removed_directory_is_made_again_and_nobody_notices(
    directory: Path, discovery: FileDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    other = FileDiscovery(directory)
    await other.put("theirs", b"1", await other.grant())
    await discovery.put("mine", b"1", await discovery.grant())
    await discovery.put("for ever", b"1")
    expected = {"for ever": b"1", "mine": b"1", "theirs": b"1"}
    async with synced(discovery) as changes:
        shutil.rmtree(directory)
        await eventually(lambda: directory.is_dir() and len(list(directory.glob("*.keys"))) == 3)
        fresh = FileDiscovery(directory)
        assert await fresh.get_prefix("") == expected
        assert await discovery.get_prefix("") == expected
        await other.put("later", b"1")
        assert await read(changes) == Put("later", b"1")
    await other.close()
    assert "was removed" in caplog.text
    assert "are back" in caplog.text


async def test_a_put_into_a_removed_directory_works(directory: Path, discovery: FileDiscovery) -> None:
    lease = await discovery.grant()
    await discovery.put("a", b"1", lease)
    shutil.rmtree(directory)
    await discovery.put("b", b"1", lease)
    await eventually(lambda: (directory / f"{lease.id:016x}.lock").exists())
    assert await FileDiscovery(directory).get_prefix("") == {"a": b"1", "b": b"1"}


@pytest.mark.parametrize("kind", ["lock", "keys"])
@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(b"garbage")], ids=["removed", "overwritten"]
)
async def test_a_live_lease_puts_its_files_back(
    directory: Path, discovery: FileDiscovery, kind: str, harm: Callable[[Path], object]
) -> None:
    other = FileDiscovery(directory)
    lease = await other.grant()
    await other.put("a", b"1", lease)
    async with synced(discovery) as changes:
        harm(directory / f"{lease.id:016x}.{kind}")
        await asyncio.wait_for(restored(directory), DEADLINE_S)
        await discovery.put("b", b"1")
        assert await read(changes) == Put("b", b"1")
    await other.close()


async def restored(directory: Path) -> None:
    """Wait until a newcomer would find the lease."""
    while "a" not in await FileDiscovery(directory).get_prefix(""):
        await asyncio.sleep(0.01)


async def test_files_that_are_lost_for_good_are_deleted_after_all(directory: Path, discovery: FileDiscovery) -> None:
    async with member(directory) as process, synced(discovery) as changes:
        process.send_signal(signal.SIGSTOP)
        for path in directory.glob("*.keys"):
            path.unlink()
        assert await read(changes) == Delete(f"member/{process.pid}")
        process.send_signal(signal.SIGCONT)
        assert await read(changes) == Put(f"member/{process.pid}", b"here")


async def test_hostile_files_are_ignored(
    directory: Path, discovery: FileDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await discovery.grant()
    await discovery.put("a", b"1", lease)
    os.mkfifo(directory / f"{1:016x}.keys")
    os.mkfifo(directory / f"{1:016x}.lock")
    (directory / f"{2:016x}.keys").mkdir()
    (directory / f"{2:016x}.lock").mkdir()
    (directory / f"{3:016x}.keys").symlink_to("/dev/zero")
    (directory / f"{3:016x}.lock").symlink_to(directory / f"{lease.id:016x}.lock")
    with open(os.fsencode(directory) + b"/\xff\xfe\n", "wb"), open(directory / f"{4:016x}.keys", "wb") as huge:
        huge.truncate(1 << 40)
    shutil.copy(directory / f"{lease.id:016x}.lock", directory / f"{4:016x}.lock")
    with open(directory / f"{4:016x}.lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with synced(discovery) as changes:
            for _ in range(3):
                assert await discovery.get_prefix("") == {"a": b"1"}
            await discovery.put("b", b"2")
            assert await read(changes) == Put("b", b"2")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(set(messages)) > 0


@given(content=st.binary(max_size=200), cut=st.integers(0, 200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_of_a_snapshot_does_harm(tmp_path: Path, content: bytes, cut: int) -> None:
    async def look() -> None:
        discovery = FileDiscovery(tmp_path / "d")
        await discovery.put("a", b"1")
        path = tmp_path / "d" / f"{0:016x}.keys"
        path.write_bytes((path.read_bytes() + content)[:cut] if cut % 2 else content)
        await discovery.get_prefix("")
        await discovery.put("a", b"2")
        assert (await discovery.get_prefix("a"))["a"] == b"2"

    logging.disable()
    try:
        asyncio.run(look())
    finally:
        logging.disable(logging.NOTSET)


async def test_a_process_without_free_descriptors_loses_nobody(
    directory: Path, discovery: FileDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    other = FileDiscovery(directory)
    lease = await other.grant()
    await other.put("a", b"1", lease)
    lock, away = directory / f"{lease.id:016x}.lock", directory.parent / "away"
    async with synced(discovery) as changes:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            lock.rename(away)
            away.rename(lock)
            with pytest.raises(Overloaded, match="Too many open files"):
                await discovery.get_prefix("")
            await eventually(lambda: f"cannot open {lock}" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await discovery.put("b", b"1")
        assert await read(changes) == Put("b", b"1")
    await other.close()


async def test_a_lease_that_had_to_wait_is_looked_after(directory: Path, discovery: FileDiscovery) -> None:
    await discovery.put("other", b"1")
    with open(directory / ".work" / "mutex") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        async with synced(discovery):
            waiting = asyncio.create_task(discovery.grant())
            await asyncio.sleep(0)
    lease = await waiting
    await discovery.put("a", b"1", lease)
    (directory / f"{lease.id:016x}.lock").unlink()
    await asyncio.wait_for(restored(directory), DEADLINE_S)


async def test_a_flood_of_changes_hides_none(directory: Path, discovery: FileDiscovery, tmp_path: Path) -> None:
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    if not limit.exists():
        pytest.skip("this system has no inotify")
    other = FileDiscovery(directory)
    async with synced(discovery) as changes:
        (tmp_path / "file").touch()
        for turn in range(int(limit.read_text()) // 2 + 1):
            os.rename(tmp_path / "file", directory / f"flood{turn % 2}")
            os.rename(directory / f"flood{turn % 2}", tmp_path / "file")
        await other.put("a", b"1")
        assert await read(changes) == Put("a", b"1")
    await other.close()
