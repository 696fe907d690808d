"""The trie of runs behind a prefix index: how runs grow, split, merge and go, and who holds how much of them.

What is true in it, besides what is true in every run:

- One shared name belongs to one block. A name that another block has already is kept as the worker's own.
- A run without children ends where its deepest holder ends. Blocks that nobody holds stay only while somebody holds
  blocks behind them.
- In `recency`, a run comes behind all its children: the first one is always a leaf, and least recently used.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from dynamo._core._prefix_names import NameTable, U64s
from dynamo._core._prefix_run import RUN_BLOCKS_MAX, Run, bits, position
from dynamo._core._prefix_workers import Worker, Workers

#: A run that several workers hold grows for one of them only while it is short; then the others count as partial.
_SHORT_RUN_BLOCKS = 64
#: A run with more names that workers have for themselves is cut in halves: splitting moves half of them, a million and
#: a half per second.
_OWN_NAMES_MAX = 4096
#: Runs are merged if no more workers than this become partial holders by it.
_PARTIAL_BY_MERGE_MAX = 4


class PrefixTree:
    """Runs, the table of their names, and the order in which they were used."""

    def __init__(self, workers: Workers, blocks_max: int) -> None:
        self._workers = workers
        self._table = NameTable(blocks_max)
        self._free_ids: list[int] = []
        self.root = Run(0, None, array("Q"), array("Q"))
        self.runs: list[Run | None] = [self.root]
        self.recency: OrderedDict[Run, None] = OrderedDict()
        #: Runs to look at once more for retired workers: they were split, and had or got another number.
        self.unswept: list[Run] = []
        self.num_unique = 0
        #: Names that are kept besides the shared ones.
        self.num_extra = 0
        #: Names that were given to another run so far, by a split or a merge: what takes time and shows nowhere else.
        self.num_moved = 0
        #: The run that got too many own names last, if one did; see `thin`.
        self.crowded: Run | None = None

    # Looking

    def locate(self, worker: Worker, name: int) -> tuple[Run, int] | None:
        """Return where the block is that a worker holds under this name."""
        if worker.first_of:
            name = worker.first_of.get(name, name)
        number = worker.number
        for run_id in self._table.candidates(name):
            run = self.runs[run_id]
            if run is not None and run.names is not None and not run.uses_own(number):
                at = position(run.names, name, run.depth(number))
                if at >= 0:
                    return run, at
        if worker.num_own:
            for run_id in self._table.candidates(name ^ worker.salt):
                run = self.runs[run_id]
                if run is not None and run.own is not None and number in run.own:
                    at = position(run.own[number], name, len(run.own[number]))
                    if at >= 0:
                        return run, at
        return None

    def are_new(self, worker: Worker, names: U64s) -> bool:
        """Whether no block has any of these names, as far as this worker can mean one by them."""
        if self._table.has_any(names) or len(set(names)) < len(names):
            return False
        return self.are_not_own(worker, names)

    def are_not_own(self, worker: Worker, names: U64s) -> bool:
        """Whether this worker has no block under one of these names, shared names aside."""
        if worker.num_own and self._table.has_any(worker.salted(names)):
            return False
        return not worker.first_of or worker.first_of.keys().isdisjoint(names)

    def touch(self, run: Run | None) -> None:
        """Count a run and all before it as used now."""
        while run is not None and run is not self.root:
            self.recency.move_to_end(run)
            run = run.parent

    # Growing

    def append(self, run: Run, at: int, worker: Worker, tokens: U64s, names: U64s) -> Run | None:
        """Continue behind the first `at` blocks of a run, with blocks that are not there yet; return the last run.

        Changes nothing and returns None if another block may have one of the names.
        """
        if not self.are_not_own(worker, names):
            return None
        if self._can_grow(run, at, worker, len(names)):
            if not self._table.add_new(names, run.id):
                return None
            self._grow(run, worker, tokens, names)
            return run
        pieces = [slice(begin, begin + RUN_BLOCKS_MAX) for begin in range(0, len(names), RUN_BLOCKS_MAX)]
        ids = [self._new_id() for _ in pieces]
        for done, run_id in enumerate(ids):
            if not self._table.add_new(names[pieces[done]], run_id):
                for piece, its_id in zip(pieces[:done], ids, strict=False):
                    self._table.discard(names[piece], its_id)
                self._free_ids += ids
                return None
        if at < len(run.tokens):
            self.split(run, at)
        for piece, run_id in zip(pieces, ids, strict=True):
            run = self._add(run_id, run, worker, tokens[piece], names[piece])
        return run

    def append_own(self, run: Run, at: int, worker: Worker, tokens: U64s, names: U64s) -> None:
        """Continue in the same way with few blocks, under names that only this worker uses for them."""
        if at < len(run.tokens):
            self.split(run, at)
        run = self._add(self._new_id(), run, worker, tokens, None)
        self._add_own(run, worker, names)

    def deepen(self, run: Run, worker: Worker, names: U64s) -> None:
        """Have a worker hold further blocks of a run, behind those it holds, under these names."""
        number = worker.number
        depth = run.depth(number)
        end = depth + len(names)
        if (run.own is not None and number in run.own) or run.names is None:
            self._add_own(run, worker, names)
        elif run.names[depth:end] != names:
            self._add_own(run, worker, run.names[:depth] + names)
        run.set_depth(number, end)
        worker.num_blocks += len(names)

    def rename(self, run: Run, at: int, worker: Worker, name: int) -> None:
        """Give a block that a worker holds another name."""
        if not run.uses_own(worker.number):
            self._add_own(run, worker, run.names_of(worker.number)[: run.depth(worker.number)])
        own = run.names_of(worker.number)
        self._table.discard(worker.salted(own[at : at + 1]), run.id)
        own[at] = name
        self._table.add(worker.salted((name,)), run.id)

    def add_second(self, worker: Worker, name: int, first: int) -> None:
        """Give a block that a worker holds one more name."""
        worker.add_second(name, first)
        self.num_extra += 1

    def drop_second(self, worker: Worker, name: int) -> None:
        worker.drop_second(name)
        self.num_extra -= 1

    def promote_second(self, worker: Worker, first: int) -> int:
        """Let another name of a block take the place of its first one, and return it."""
        self.num_extra -= 1
        return worker.promote_second(first)

    def _can_grow(self, run: Run, at: int, worker: Worker, num_blocks: int) -> bool:
        """Whether a run takes more blocks of a worker itself. Else each block of a decode would be a run."""
        if not run.full & worker.bit or run.children or at < len(run.tokens) or at + num_blocks > RUN_BLOCKS_MAX:
            return False
        if run.names is None or (run.own is not None and worker.number in run.own):
            return False
        return run.full == worker.bit or at < _SHORT_RUN_BLOCKS or run.full & self._workers.live == worker.bit

    def _grow(self, run: Run, worker: Worker, tokens: U64s, names: U64s) -> None:
        assert run.names is not None
        if run.full != worker.bit:
            others = bits(run.full & ~worker.bit)
            run.partial = (run.partial or {}) | dict.fromkeys(others, len(run.tokens))
            run.full = worker.bit
        run.tokens.extend(tokens)
        run.names.extend(names)
        worker.num_blocks += len(tokens)
        self.num_unique += len(tokens)

    def _add(self, run_id: int, parent: Run, worker: Worker, tokens: U64s, names: U64s | None) -> Run:
        run = Run(run_id, parent, tokens, names)
        self.runs[run.id] = run
        self.recency[run] = None
        parent.add_child(run)
        run.full = worker.bit
        worker.num_blocks += len(tokens)
        self.num_unique += len(tokens)
        return run

    def _add_own(self, run: Run, worker: Worker, names: U64s) -> None:
        run.own = run.own or {}
        if worker.number in run.own:
            run.own[worker.number].extend(names)
        else:
            run.own[worker.number] = names[:]
        self._table.add(worker.salted(names), run.id)
        self._count_own(worker, len(names))
        if len(run.own) * len(run.tokens) > _OWN_NAMES_MAX:
            self.crowded = run

    def _count_own(self, worker: Worker, change: int) -> None:
        worker.num_own += change
        self.num_extra += change

    def _new_id(self) -> int:
        if self._free_ids:
            return self._free_ids.pop()
        self.runs.append(None)
        return len(self.runs) - 1

    # Shrinking

    def release(self, run: Run, at: int, worker: Worker) -> None:
        """Have a worker hold one block less. `run` is then what comes before it; `tidy` it when all is released."""
        if at < run.depth(worker.number) - 1:
            rest = self.split(run, at + 1)
            if rest.children is None:
                self.truncate(rest, rest.deepest())
        self._shorten(run, worker, at)

    def tidy(self, run: Run | None) -> None:
        """Let go of the end that nobody holds, and make one run of what need not be two."""
        while run is not None:
            run = self.tidy_one(run)

    def tidy_one(self, run: Run) -> Run | None:
        """Do one step of `tidy`; returns the run to go on with."""
        if run is self.root or self.runs[run.id] is not run:
            return None
        parent = run.parent
        if run.children is None:
            deepest = run.deepest()
            self.truncate(run, deepest)
            if not deepest:
                return parent
        child = run.only_child()
        if child is not None and self._merge(run, child):
            return run
        if parent is not None and parent is not self.root and parent.only_child() is run and self._merge(parent, run):
            return parent
        return None

    def truncate(self, run: Run, keep: int) -> None:
        """Drop all blocks of a leaf but the first ones; with none left, the run is gone."""
        lost = len(run.tokens) - keep
        if lost:
            for number in bits(run.holders()):
                if run.depth(number) > keep:
                    self._shorten(run, self._workers.numbered(number), keep)
            if run.names is not None:
                self._table.discard(run.names[keep:], run.id)
                del run.names[keep:]
            first = run.tokens[0]
            del run.tokens[keep:]
            self.num_unique -= lost
            if keep:
                for number in [number for number, depth in (run.partial or {}).items() if depth == keep]:
                    run.set_depth(number, keep)
            else:
                self._unlink(run, first)

    def purge(self, run: Run, budget: int) -> int:
        """Forget retired workers in a run, one at least; with the budget spent, the others stay.

        Returns what was spent: one for each worker, and one for each name of its own.
        """
        spent, before = 0, self.num_extra
        for done, number in enumerate(bits(run.holders() & self._workers.retired), 1):
            self._shorten(run, self._workers.numbered(number), 0)
            spent = done + before - self.num_extra
            if spent >= budget:
                break
        return spent

    def evict(self, excess: int) -> Run:
        """Drop up to `excess` blocks from the end of the least recently used run; returns that run."""
        run = next(iter(self.recency))
        assert run.children is None
        parent = run.parent
        weight = 1 + len(run.own or ())
        keep = max(0, len(run.tokens) + excess // -weight)
        self.truncate(run, keep)
        if not keep:
            self.tidy(parent)
        return run

    def _shorten(self, run: Run, worker: Worker, depth: int) -> None:
        """Let a worker hold only the first `depth` blocks of a run."""
        number = worker.number
        lost = run.depth(number) - depth
        names = run.names_of(number)
        if worker.seconds:
            self.num_extra -= worker.drop_seconds_of(names[depth : depth + lost])
        if run.own is not None and number in run.own:
            self._table.discard(worker.salted(names[depth:]), run.id)
            self._count_own(worker, -lost)
            del names[depth:]
            if not depth:
                del run.own[number]
                run.own = run.own or None
        run.set_depth(number, depth)
        worker.num_blocks -= lost

    def _unlink(self, run: Run, first_token: int) -> None:
        assert run.parent is not None
        run.parent.remove_child(first_token)
        self._forget_run(run, run.id)

    def _forget_run(self, run: Run, run_id: int) -> None:
        run.parent = None
        del self.recency[run]
        self.runs[run_id] = None
        self._free_ids.append(run_id)

    # Splitting and merging. Names of the smaller part move to another run number, so a block rarely moves.

    def thin(self) -> None:
        """Cut the run that got too many own names, if one did.

        It is one per event, so that no event takes long; the runs that it leaves come next time.
        """
        run, self.crowded = self.crowded, None
        if run is not None and self.runs[run.id] is run and len(run.tokens) > 1:
            self.split(run, len(run.tokens) // 2)

    def split(self, run: Run, at: int) -> Run:
        """Cut a run in two; it keeps the first `at` blocks. Returns the rest."""
        rest = Run(run.id, run, run.tokens[at:], None if run.names is None else run.names[at:])
        rest.children, run.children = run.children, None
        for child in (rest.children or {}).values():
            child.parent = rest
        depths, run.partial = run.partial or {}, None
        rest.full = run.full
        del run.tokens[at:]
        if run.names is not None:
            del run.names[at:]
        for number, depth in depths.items():
            run.set_depth(number, min(depth, at))
            rest.set_depth(number, max(depth - at, 0))
        if run.own is not None:
            rest.own = {number: own[at:] for number, own in run.own.items() if len(own) > at} or None
            for own in run.own.values():
                del own[at:]
        run.add_child(rest)
        self._move(rest if len(rest.tokens) <= at else run, self._new_id())
        self.runs[run.id], self.runs[rest.id] = run, rest
        if self._workers.retired:
            self.unswept += (run, rest)
        self.recency[rest] = None
        self.touch(rest)
        return rest

    def _merge(self, run: Run, child: Run) -> bool:
        """Append a run's only child to it, if the result is a run."""
        length = len(run.tokens)
        if length + len(child.tokens) > RUN_BLOCKS_MAX or (run.names is None) != (child.names is None):
            return False
        if not self._fit(run, child):
            return False
        smaller, into = (child, run.id) if len(child.tokens) <= length else (run, child.id)
        gone = smaller.id
        self._move(smaller, into)
        run.id, self.runs[into] = into, run
        self._forget_run(child, gone)
        shorter = run.full & ~child.full
        run.full = child.full
        for number in bits(shorter):
            run.partial = run.partial or {}
            run.partial[number] = length + child.depth(number)
        run.tokens.extend(child.tokens)
        if run.names is not None and child.names is not None:
            run.names.extend(child.names)
        for number, own in (child.own or {}).items():
            run.names_of(number).extend(own)
        run.children = child.children
        for grandchild in (run.children or {}).values():
            grandchild.parent = run
        self.touch(run)
        return True

    def _fit(self, run: Run, child: Run) -> bool:
        holders = child.holders()
        if (holders | run.holders()) & self._workers.retired:
            return False
        if not holders and child.children is None:
            return False  # Whoever let go of it is about to drop it.
        if holders & ~run.full or (run.full & ~child.full).bit_count() > _PARTIAL_BY_MERGE_MAX:
            return False
        if not run.own and not child.own:
            return True
        # Half as many as there may be: what is merged now is not cut again with the next worker.
        if len(run.own or ()) * (len(run.tokens) + len(child.tokens)) > _OWN_NAMES_MAX // 2:
            return False
        return all(run.uses_own(number) == child.uses_own(number) for number in bits(holders))

    def _move(self, run: Run, run_id: int) -> None:
        """Give a run another number."""
        if run.names is not None:
            self._table.move(run.names, run.id, run_id)
            self.num_moved += len(run.names)
        for number, own in (run.own or {}).items():
            self._table.move(self._workers.numbered(number).salted(own), run.id, run_id)
            self.num_moved += len(own)
        run.id = run_id
