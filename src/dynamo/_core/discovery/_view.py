"""What a directory of leases says, as last read: which leases live, and which keys they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamo._core.discovery._files import NO_LEASE, Entry, Files, Stamp
from dynamo._core.discovery._locks import Lock

# How often a scan is repeated because something changed while it ran.
_SCANS_MAX = 8


@dataclass(slots=True)
class LeaseView:
    """One lease. Its entries outlive a file that is lost, so that its owner can put them back."""

    lock: Lock = Lock.ABSENT
    entries: Mapping[str, Entry] = field(default_factory=dict)
    stamp: Stamp | None = None
    has_file: bool = False
    lost: bool = False


class DirectoryView:
    """Follows the files when told to look; decides nothing and changes nothing."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.leases: dict[int, LeaseView] = {}
        #: Leases whose last entries are remembered even when their files are gone.
        self.kept: set[int] = {NO_LEASE}
        #: Set when files of a live lease vanish or break, which no process of ours does. The reader clears it.
        self.accident = False

    def forget(self) -> None:
        """Know nothing: what was seen is too old to compare with."""
        self.leases.clear()
        self.accident = False

    def rescan(self) -> None:
        """Look at every file. Raises OSError if the directory cannot be listed; then nothing has changed."""
        # A key may move from a file not read yet to one already read. When nothing has changed since
        # the last pass, everything read was true at one moment.
        changed = self._scan(locks=True)
        passes = 1
        while changed and passes < _SCANS_MAX:
            changed = self._scan(locks=False)
            passes += 1

    def rescan_keys(self) -> None:
        """Look at the keys of every lease, while nobody can change them; at locks only of leases not known yet."""
        self._scan(locks=False)

    def _scan(self, *, locks: bool) -> bool:
        ids = sorted(self._files.ids() | self.leases.keys() | {NO_LEASE})
        return any([self.look(id, lock=locks or id not in self.leases) for id in ids])  # noqa: C419 - look at all of them

    def look(self, id: int, *, lock: bool = True, keys: bool = True) -> bool:
        """Look at the files of one lease. Returns whether it matters to anyone who asks for keys."""
        lease = self.leases.setdefault(id, LeaseView())
        changed = (lock and self._look_at_lock(id, lease)) | (keys and self._look_at_keys(id, lease))
        if lease.lock is Lock.ABSENT and not lease.has_file and id not in self.kept:
            del self.leases[id]
        return changed

    def note(self, id: int, entries: Mapping[str, Entry]) -> None:
        """Remember what has just been written."""
        lease = self.leases.setdefault(id, LeaseView())
        lease.entries, lease.stamp, lease.has_file, lease.lost = entries, None, True, False

    def holders(self, key: str) -> list[int]:
        """Return the live leases that hold `key`: one, or two where a move was cut short."""
        return [id for id, lease in sorted(self.leases.items()) if key in lease.entries and lease.lock is Lock.HELD]

    def merged(self) -> dict[str, bytes]:
        """Return the keys of all live leases."""
        best: dict[str, tuple[int, int]] = {}
        values: dict[str, bytes] = {}
        for id, lease in self.leases.items():
            if lease.lock is not Lock.HELD or lease.lost:
                continue
            for key, entry in lease.entries.items():
                rank = (entry.revision, id)
                if key not in best or rank > best[key]:
                    best[key], values[key] = rank, entry.value
        return values

    def dead(self) -> list[int]:
        """Return the leases that have files but nobody to hold their lock."""
        ended = (Lock.FREE, Lock.ABSENT)
        return [id for id, lease in self.leases.items() if lease.lock in ended and id not in self.kept]

    def _look_at_lock(self, id: int, lease: LeaseView) -> bool:
        before = lease.lock
        found = Lock.HELD if id == NO_LEASE else self._files.test_lock(id)
        if found is not Lock.UNKNOWN or before is Lock.ABSENT:
            lease.lock = found  # what cannot be opened now, for want of descriptors say, is what it was
        if before is Lock.HELD and lease.lock is Lock.ABSENT and lease.entries and not lease.lost:
            self.accident = True
        return lease.lock is not before and bool(lease.entries)

    def _look_at_keys(self, id: int, lease: LeaseView) -> bool:
        loaded = self._files.load(id, lease.stamp)
        if loaded is None:
            return False
        lease.stamp = loaded.stamp
        before = (lease.lost, lease.entries)
        lease.has_file = loaded.exists
        if loaded.entries is not None:
            lease.entries, lease.lost = loaded.entries, False
        elif lease.entries and not lease.lost:
            lease.lost = True
            self.accident = self.accident or lease.lock is Lock.HELD
        return (lease.lost, lease.entries) != before
