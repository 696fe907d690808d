"""What a prefix index means, in the simplest words: per worker, a dict from name to the path of tokens hashes."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo._core.prefix_index import Applied, PrefixIndex, StoredBlocks, WorkerKey

Path = tuple[int, ...]


class PrefixModel:
    """An index without limits that looks at everything."""

    def __init__(self) -> None:
        self.names: dict[WorkerKey, dict[int, Path]] = {}

    def store(self, worker: WorkerKey, parent: int | None, names: Sequence[int], tokens: Sequence[int]) -> Applied:
        held = self.names.get(worker, {})
        if not names:
            return Applied(0)
        if parent is not None and parent not in held:
            return Applied(0, unknown_parent=len(names))
        self.names[worker] = held
        for done, (name, token) in enumerate(zip(names, tokens, strict=True)):
            if name == parent:
                return Applied(done, malformed=len(names) - done)
            held[name] = (*(held[parent] if parent is not None else ()), token)
            parent = name
        return Applied(len(names))

    def remove(self, worker: WorkerKey, names: Sequence[int]) -> Applied:
        held = self.names.get(worker, {})
        applied = sum([held.pop(name, None) is not None for name in names])
        return Applied(applied, unknown_blocks=len(names) - applied)

    def clear(self, worker: WorkerKey) -> None:
        self.names.pop(worker, None)

    def find(self, tokens: Sequence[int]) -> dict[WorkerKey, int]:
        found = {}
        for worker, held in self.names.items():
            paths, depth = set(held.values()), 0
            while depth < len(tokens) and tuple(tokens[: depth + 1]) in paths:
                depth += 1
            if depth:
                found[worker] = depth
        return found

    def num_blocks(self) -> dict[WorkerKey, int]:
        return {worker: len(set(held.values())) for worker, held in self.names.items()}

    def paths(self) -> set[Path]:
        return {path for held in self.names.values() for path in held.values()}


def check(index: PrefixIndex, model: PrefixModel) -> None:
    """Compare all that can be asked, for every path that anybody holds and for ways off it."""
    assert index.workers() == model.num_blocks()
    for path in model.paths():
        for query in (path, (*path, 0), (*path[:-1], path[-1] + 1, 0)):
            assert index.find(query) == model.find(query), query


def check_names(index: PrefixIndex, model: PrefixModel) -> None:
    """Take every name away, one after the other: the index must know each, and nothing else."""
    for worker, held in list(model.names.items()):
        for name in list(held):
            assert index.remove(worker, [name, 1 << 63]) == Applied(1, unknown_blocks=1)
            model.remove(worker, [name])
        assert index.workers()[worker] == 0
    assert index.num_blocks == 0


def reloaded(index: PrefixIndex) -> PrefixIndex:
    """Return an index that was told what another one dumped."""
    again = PrefixIndex()
    for worker in index.workers():
        for event in index.dump(worker):
            assert store(again, event).applied == len(event.block_hashes)
    return again


def store(index: PrefixIndex, event: StoredBlocks) -> Applied:
    return index.store(event.worker, event.parent_hash, event.block_hashes, event.tokens_hashes)
