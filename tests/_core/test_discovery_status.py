"""What a discovery in files says of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests._core.members import eventually, read, synced

from dynamo._core.discovery import Put
from dynamo._core.discovery.file import FileDiscovery


async def test_a_directory_that_cannot_be_read_is_degraded_until_it_can(tmp_path: Path) -> None:
    directory = tmp_path / "discovery"
    discovery = FileDiscovery(directory, use_inotify=False)
    await discovery.put("a", b"1", await discovery.grant())
    async with synced(discovery) as changes:
        shutil.rmtree(directory)
        directory.write_text("in the way")
        await eventually(lambda: discovery.status.is_degraded)
        assert str(directory) in discovery.status.reason
        directory.unlink()
        await eventually(lambda: not discovery.status.is_degraded)
        await discovery.put("b", b"2")
        assert await read(changes) == Put("b", b"2")
    await discovery.close()
    assert discovery.status.since is None
