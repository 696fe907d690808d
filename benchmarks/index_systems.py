"""The two indexes behind one set of verbs. Whatever a system must be given is made outside of what is timed."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Sequence
from typing import Any, Protocol


class Index(Protocol):
    """What is done to an index; events and queries are in the form that it takes."""

    def event(self, parent: int | None, names: array[int], tokens: array[int]) -> Any: ...

    def store(self, worker: int, event: Any) -> None: ...

    def removal(self, names: array[int]) -> Any: ...

    def remove(self, worker: int, removal: Any) -> None: ...

    def query(self, tokens: array[int]) -> Any: ...

    def find(self, query: Any) -> Any: ...

    def holders(self, found: Any) -> dict[int, int]: ...

    def remove_worker(self, worker: int) -> list[float]:
        """Forget a worker, and return for how long nothing else could go on, each time.

        These are CPU times of the process: in any of many short pauses, a busy machine gives another process its turn.
        """


class Ours:
    """`PrefixIndex` takes arrays, and forgets a worker in slices with room for others in between."""

    def __init__(self) -> None:
        from dynamo._core.prefix_index import PrefixIndex, WorkerKey

        self._index = PrefixIndex()
        self._keys = [WorkerKey(number) for number in range(1024)]

    def event(self, parent: int | None, names: array[int], tokens: array[int]) -> Any:
        return parent, names, tokens

    def store(self, worker: int, event: Any) -> None:
        parent, names, tokens = event
        applied = self._index.store(self._keys[worker], parent, names, tokens)
        assert applied.applied == len(names), applied

    def removal(self, names: array[int]) -> Any:
        return names

    def remove(self, worker: int, removal: Any) -> None:
        self._index.remove(self._keys[worker], removal)

    def query(self, tokens: array[int]) -> Any:
        return tokens

    def find(self, query: Any) -> Any:
        return self._index.find(query)

    def holders(self, found: Any) -> dict[int, int]:
        return {key.worker_id: depth for key, depth in found.items()}

    def remove_worker(self, worker: int) -> list[float]:
        pauses_s: list[float] = []
        done = False
        while not done:
            began_s = time.process_time()
            if not pauses_s:
                self._index.remove_worker(self._keys[worker])
            done = self._index.reclaim()
            pauses_s.append(time.process_time() - began_s)
        return pauses_s


class OursFromJson(Ours):
    """The same, from the JSON that the peer takes."""

    def __init__(self) -> None:
        super().__init__()
        import msgspec

        block = msgspec.defstruct("Block", [("block_hash", int), ("tokens_hash", int)], gc=False)
        stored = msgspec.defstruct("Stored", [("parent_hash", int | None), ("blocks", list[block])])  # type: ignore[valid-type]
        data = msgspec.defstruct("Data", [("stored", stored)])
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Event", [("data", data)])).decode

    def event(self, parent: int | None, names: array[int], tokens: array[int]) -> Any:
        return _stored(parent, names, tokens)

    def store(self, worker: int, event: Any) -> None:
        stored = self._decode(event).data.stored  # type: ignore[attr-defined]
        names = array("Q", [block.block_hash for block in stored.blocks])
        super().store(worker, (stored.parent_hash, names, array("Q", [block.tokens_hash for block in stored.blocks])))


class Peer:
    """`RadixTree` takes events as JSON and prompts as lists."""

    def __init__(self) -> None:
        from dynamo.llm import RadixTree  # type: ignore[attr-defined]

        self._tree = RadixTree()

    def event(self, parent: int | None, names: array[int], tokens: array[int]) -> Any:
        return _stored(parent, names, tokens)

    def store(self, worker: int, event: Any) -> None:
        self._tree.apply_event(worker, event)

    def removal(self, names: array[int]) -> Any:
        return _event({"removed": {"block_hashes": list(names)}})

    def remove(self, worker: int, removal: Any) -> None:
        self._tree.apply_event(worker, removal)

    def query(self, tokens: array[int]) -> Any:
        return list(tokens)

    def find(self, query: Any) -> Any:
        return self._tree.find_matches(query)

    def holders(self, found: Any) -> dict[int, int]:
        return {worker: depth for (worker, _), depth in found.scores.items()}

    def remove_worker(self, worker: int) -> list[float]:
        began_s = time.process_time()
        self._tree.remove_worker(worker)
        return [time.process_time() - began_s]


def _stored(parent: int | None, names: Sequence[int], tokens: Sequence[int]) -> bytes:
    blocks = [{"block_hash": name, "tokens_hash": token} for name, token in zip(names, tokens, strict=True)]
    return _event({"stored": {"parent_hash": parent, "blocks": blocks}})


def _event(data: dict[str, Any]) -> bytes:
    return json.dumps({"event_id": 1, "dp_rank": 0, "data": data}).encode()
