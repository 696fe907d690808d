"""The workers of a prefix index: each has a small number, so that a set of workers is the bits of an int.

A worker that is removed keeps its number until every run has forgotten it. It counts as retired at once, and
whoever comes back under the same key is a new worker with another number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dynamo._core._prefix_names import U64_MAX, U64s
from dynamo._core._prefix_run import bits

#: Decoded sets of workers are remembered, since the same few occur again and again: so many workers in all of them.
#: More would take milliseconds to let go of.
_KEYS_REMEMBERED = 1 << 17
_ODD = 0x9E3779B97F4A7C15


class WorkerKey(NamedTuple):
    """One holder of blocks: a worker, or one rank of a worker with data parallelism."""

    worker_id: int
    dp_rank: int = 0


class Worker:
    """What is counted for one worker, and what is odd about its names."""

    __slots__ = ("bit", "first_of", "key", "num_blocks", "num_own", "number", "salt", "seconds")

    def __init__(self, key: WorkerKey, number: int) -> None:
        self.key = key
        self.number = number
        self.bit = 1 << number
        self.num_blocks = 0
        # Names of its own (see Run.own) are in the table of names under another number, so that engines which count
        # their blocks from zero do not meet there.
        self.num_own = 0
        self.salt = (number + 1) * _ODD & U64_MAX
        # A block that this worker stored under two names: from the second name to the first, and back.
        self.first_of: dict[int, int] | None = None
        self.seconds: dict[int, list[int]] | None = None

    def salted(self, names: Iterable[int]) -> Iterator[int]:
        """Return the keys of its own names."""
        salt = self.salt
        return (name ^ salt for name in names)

    def add_second(self, name: int, first: int) -> None:
        self.first_of = self.first_of or {}
        self.seconds = self.seconds or {}
        self.first_of[name] = first
        self.seconds.setdefault(first, []).append(name)

    def drop_second(self, name: int) -> None:
        assert self.first_of is not None
        assert self.seconds is not None
        first = self.first_of.pop(name)
        self.seconds[first].remove(name)
        if not self.seconds[first]:
            del self.seconds[first]

    def promote_second(self, first: int) -> int:
        """Let another name of a block become its first one, and return it."""
        assert self.first_of is not None
        assert self.seconds is not None
        promoted, *others = self.seconds.pop(first)
        del self.first_of[promoted]
        if others:
            self.seconds[promoted] = others
            for name in others:
                self.first_of[name] = promoted
        return promoted

    def drop_seconds_of(self, names: U64s) -> int:
        """Forget every second name of these; returns how many there were."""
        if not self.seconds or not self.first_of:
            return 0
        dropped = 0
        for first in names:
            for name in self.seconds.pop(first, ()):
                del self.first_of[name]
                dropped += 1
        return dropped


class Workers:
    """All workers that are known, and those that are yet to be forgotten."""

    def __init__(self, workers_max: int) -> None:
        self._workers_max = workers_max
        self._by_key: dict[WorkerKey, Worker] = {}
        self._by_number: list[Worker | None] = []
        self._sets: dict[int, dict[WorkerKey, None]] = {}
        self._num_remembered = 0
        self.live = 0
        self.retired = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._by_key.values()))

    def get(self, key: WorkerKey) -> Worker | None:
        return self._by_key.get(key)

    def numbered(self, number: int) -> Worker:
        worker = self._by_number[number]
        assert worker is not None
        return worker

    def add(self, key: WorkerKey) -> Worker | None:
        """Return a new worker, or None if there are too many."""
        number = next((n for n, worker in enumerate(self._by_number) if worker is None), len(self._by_number))
        if number >= self._workers_max:
            return None
        if number == len(self._by_number):
            self._by_number.append(None)
        worker = self._by_number[number] = self._by_key[key] = Worker(key, number)
        self.live |= worker.bit
        return worker

    def retire(self, worker: Worker) -> None:
        """From now on nobody finds this worker."""
        del self._by_key[worker.key]
        self.live &= ~worker.bit
        self.retired |= worker.bit

    def free(self, mask: int) -> None:
        """Let the numbers of retired workers be used again; no run may mention them any more."""
        self.retired &= ~mask
        for number in bits(mask):
            self._by_number[number] = None
        self._forget_sets()

    def keys(self, mask: int) -> dict[WorkerKey, None]:
        """Return the keys of a set of workers.

        They are the keys of a dict, since `dict.fromkeys` takes over their hashes from one: four times faster.
        """
        keys = self._sets.get(mask)
        if keys is None:
            keys = dict.fromkeys(self.numbered(number).key for number in bits(mask))
            if self._num_remembered + len(keys) > _KEYS_REMEMBERED:
                self._forget_sets()
            self._num_remembered += len(keys)
            self._sets[mask] = keys
        return keys

    def _forget_sets(self) -> None:
        self._sets.clear()
        self._num_remembered = 0
