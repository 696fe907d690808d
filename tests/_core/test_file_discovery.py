"""Discovery through files: what is true of real processes, and of the directory they share."""

# ruff: noqa: ASYNC230, ASYNC240 - what is tested are tiny files, which tell nobody when they change

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests._core.members import MEMBER, eventually, lease_files, member, read, synced

from dynamo._core.discovery import Delete, Put
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.errors import ConfigError, Overloaded


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "discovery"


@pytest_asyncio.fixture
async def discovery(directory: Path) -> AsyncIterator[FileDiscovery]:
    discovery = FileDiscovery(directory)
    yield discovery
    await discovery.close()


# Processes


async def test_a_killed_process_is_seen(directory: Path, discovery: FileDiscovery) -> None:
    async with member(directory) as process, synced(discovery) as changes:
        process.kill()
        assert await read(changes) == Delete(f"member/{process.pid}")
    assert await discovery.get_prefix("") == {}


async def test_a_killed_process_is_seen_without_inotify(directory: Path) -> None:
    discovery = FileDiscovery(directory, use_inotify=False)
    async with member(directory) as process, synced(discovery) as changes:
        process.kill()
        assert await read(changes) == Delete(f"member/{process.pid}")
    await discovery.close()


async def test_what_a_killed_process_left_is_removed_by_those_who_live(
    directory: Path, discovery: FileDiscovery
) -> None:
    async with synced(discovery):
        async with member(directory):
            assert len(lease_files(directory)) == 2
        await eventually(lambda: not lease_files(directory))


async def test_what_the_last_process_left_is_removed_by_the_next(directory: Path, discovery: FileDiscovery) -> None:
    async with member(directory):
        pass
    assert len(lease_files(directory)) == 2
    assert await discovery.get_prefix("") == {}
    lease = await discovery.grant()
    await discovery.put("next", b"", lease)
    await eventually(lambda: lease_files(directory) == [f"{lease.id:016x}.keys", f"{lease.id:016x}.lock"])


async def test_a_stopped_process_keeps_its_lease(directory: Path, discovery: FileDiscovery) -> None:
    async with member(directory) as process, synced(discovery) as changes:
        process.send_signal(signal.SIGSTOP)
        await discovery.put("mine", b"")
        assert await read(changes) == Put("mine", b"")
        assert list(await discovery.get_prefix("")) == [f"member/{process.pid}", "mine"]
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "then",
    [
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid",
        "child = os.fork() or (os.close(1), os.execlp('sleep', 'sleep', '60'))",
        "import time; child = os.fork() or (os.close(1), time.sleep(60))",
    ],
    ids=["spawned", "executed", "forked"],
)
async def test_a_child_does_not_keep_its_dead_parent_alive(
    directory: Path, discovery: FileDiscovery, then: str
) -> None:
    told = directory.parent / "child"
    then += f"; open({str(told)!r}, 'w').write(str(child))"
    async with synced(discovery) as changes, member(directory, then) as process:
        assert await read(changes) == Put(f"member/{process.pid}", b"here")
        process.kill()
        try:
            assert await read(changes) == Delete(f"member/{process.pid}")
            os.kill(int(told.read_text()), 0)  # it lives
        finally:
            os.kill(int(told.read_text()), signal.SIGKILL)


async def test_thirty_processes_join_and_leave(directory: Path, discovery: FileDiscovery) -> None:
    async with synced(discovery) as changes:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", MEMBER.format(then="pass"), str(directory), stdout=asyncio.subprocess.DEVNULL
            )
            for _ in range(30)
        ]
        names = {f"member/{process.pid}" for process in processes}
        joined = {change.key for change in [await read(changes) for _ in processes] if isinstance(change, Put)}
        for process in processes:
            process.kill()
        left = {change.key for change in [await read(changes) for _ in processes] if isinstance(change, Delete)}
        for process in processes:
            await process.wait()
    assert joined == left == names


async def test_a_process_killed_while_it_writes_leaves_no_trouble(directory: Path, discovery: FileDiscovery) -> None:
    moving = "print('joined', flush=True)\n    while True:\n" + "".join(
        f"        await discovery.put('moving', os.urandom(500), {lease})\n" for lease in ("lease", "None")
    )
    lease = await discovery.grant()
    for turn in range(5):
        async with member(directory, moving) as process:
            for _ in range(turn + 1):
                await discovery.put("mine", b"%d" % turn, lease)
            process.kill()
            await discovery.put("mine", b"done", lease)
        assert (await discovery.get_prefix("mine")) == {"mine": b"done"}
        await discovery.put("moving", b"here", lease)
        assert (await discovery.get_prefix("moving")) == {"moving": b"here"}


async def test_closing_is_seen_by_others(directory: Path, discovery: FileDiscovery) -> None:
    other = FileDiscovery(directory)
    await other.put("a", b"", await other.grant())
    async with synced(discovery) as changes:
        await other.close()
        assert await read(changes) == Delete("a")


async def test_nothing_is_left_open_after_close(directory: Path) -> None:
    def open_files() -> set[str]:
        return {
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        }

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open files in /proc")
    files, threads = open_files(), threading.active_count()
    for _ in range(3):
        discovery = FileDiscovery(directory)
        async with synced(discovery):
            for _ in range(3):
                await discovery.put("a", b"", await discovery.grant())
        await discovery.close()
    assert open_files() <= files
    assert threading.active_count() == threads


async def test_nothing_is_left_open_when_nobody_watches_and_no_lease_lives(discovery: FileDiscovery) -> None:
    async with synced(discovery):
        lease = await discovery.grant()
        fds = len(os.listdir("/dev/fd"))
    await lease.close()
    assert len(os.listdir("/dev/fd")) < fds
    assert await discovery.get_prefix("") == {}


# Directories and disks that do not do


async def test_a_full_disk_is_a_clear_error_and_changes_nothing(discovery: FileDiscovery) -> None:
    lease = await discovery.grant()
    await discovery.put("a", b"1", lease)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Overloaded, match="DYN_DISCOVERY"):
            await discovery.put("a", bytes(2000), lease)
        with pytest.raises(Overloaded, match="DYN_DISCOVERY"):
            await discovery.put("b", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await discovery.get_prefix("") == {"a": b"1"}
    await discovery.put("a", bytes(2000), lease)
    assert await discovery.get_prefix("") == {"a": bytes(2000)}


async def test_a_mutex_that_is_never_let_go_is_a_clear_error(directory: Path) -> None:
    discovery = FileDiscovery(directory, mutex_timeout_s=0.05)
    await discovery.put("a", b"1")
    with open(directory / ".work" / "mutex") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        with pytest.raises(Overloaded, match="stopped"):
            await discovery.put("a", b"2")
        assert await discovery.get_prefix("") == {"a": b"1"}
    await discovery.put("a", b"2")


async def test_the_directory_is_for_its_user_alone(directory: Path, discovery: FileDiscovery) -> None:
    lease = await discovery.grant()
    await discovery.put("a", b"1", lease)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.rglob("*"))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
async def test_a_directory_that_others_may_write_to_is_refused(
    directory: Path, discovery: FileDiscovery, mode: int
) -> None:
    directory.mkdir()
    directory.chmod(mode)
    for attempt in (discovery.grant, lambda: discovery.put("a", b""), lambda: discovery.get_prefix("")):
        with pytest.raises(ConfigError, match="chmod"):
            await attempt()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_a_directory_of_someone_else_is_refused(directory: Path, discovery: FileDiscovery) -> None:
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(ConfigError, match="12345"):
        await discovery.grant()


async def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="DYN_DISCOVERY"):
            await FileDiscovery(path).grant()
