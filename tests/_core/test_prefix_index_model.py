"""The prefix index beside a naive model, through any sequence of events that hypothesis finds."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests._core.prefix_model import Path, PrefixModel, check, check_names, reloaded

from dynamo._core.prefix_index import PrefixIndex, WorkerKey

_WORKERS = [WorkerKey(1), WorkerKey(1, 1), WorkerKey(2)]
workers = st.sampled_from(_WORKERS)
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6)
picks = st.integers(0, 1 << 16)


class SameAsTheModel(RuleBasedStateMachine):
    """Events of engines: mostly as real ones send them, sometimes as none should."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.model = PrefixModel()

    @rule(worker=workers, tokens=tokens, pick=picks, salted=st.booleans())
    def store_as_engines_do(self, worker: WorkerKey, tokens: list[int], pick: int, salted: bool) -> None:
        held = self.model.names.get(worker, {})
        parent = [None, *held][pick % (len(held) + 1)]
        path: Path = held[parent] if parent is not None else ()
        names = []
        for token in tokens:
            path = (*path, token)
            names.append(hash((path, worker if salted else None)) % (1 << 64))
        self._store(worker, parent, names, tokens)

    @rule(worker=workers, tokens=tokens, parent=st.integers(0, 12) | st.none(), data=st.data())
    def store_anything(self, worker: WorkerKey, tokens: list[int], parent: int | None, data: st.DataObject) -> None:
        size = len(tokens)
        self._store(worker, parent, data.draw(st.lists(st.integers(0, 12), min_size=size, max_size=size)), tokens)

    @rule(worker=workers, pick=picks, count=st.integers(1, 8), backwards=st.booleans())
    def remove_neighbours(self, worker: WorkerKey, pick: int, count: int, backwards: bool) -> None:
        names = list(self.model.names.get(worker, {}))
        if names:
            begin = pick % len(names)
            some = names[begin : begin + count]
            self._remove(worker, some[::-1] if backwards else some)

    @rule(worker=workers, names=st.lists(st.integers(0, 12), max_size=5))
    def remove_anything(self, worker: WorkerKey, names: list[int]) -> None:
        self._remove(worker, names)

    @rule(worker=workers)
    def clear(self, worker: WorkerKey) -> None:
        self.index.clear(worker)
        self.model.clear(worker)

    @rule(budget_blocks=st.integers(1, 50))
    def reclaim(self, budget_blocks: int) -> None:
        self.index.reclaim(budget_blocks)

    @rule()
    def find_the_same_after_a_reload(self) -> None:
        again = reloaded(self.index)
        for path in self.model.paths():
            assert again.find(path) == self.model.find(path)

    @invariant()
    def answers_are_the_same(self) -> None:
        check(self.index, self.model)

    def teardown(self) -> None:
        check_names(self.index, self.model)
        while not self.index.reclaim():
            pass
        assert self.index.num_unique_blocks == self.index.num_runs == self.index.num_names == 0

    def _store(self, worker: WorkerKey, parent: int | None, names: list[int], tokens: list[int]) -> None:
        assert self.index.store(worker, parent, names, tokens) == self.model.store(worker, parent, names, tokens)

    def _remove(self, worker: WorkerKey, names: list[int]) -> None:
        assert self.index.remove(worker, names) == self.model.remove(worker, names)


TestSameAsTheModel = SameAsTheModel.TestCase
TestSameAsTheModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_long_prompts_of_many_runs_are_found_as_the_model_finds_them(seed: int) -> None:
    """Names follow from the path here, so the model needs no names: a set of paths, given by their branches."""
    chance = random.Random(seed)
    index = PrefixIndex()
    stems = [[chance.getrandbits(64) for _ in range(chance.randint(1, 1500))] for _ in range(3)]
    held: dict[WorkerKey, list[list[int]]] = {worker: [] for worker in _WORKERS}
    for _ in range(12):
        worker, stem = chance.choice(_WORKERS), chance.choice(stems)
        prompt = stem[: chance.randint(1, len(stem))] + [chance.getrandbits(64)] * chance.randint(0, 3)
        names = _names(prompt, salt=worker.worker_id)
        cut = chance.randint(0, len(prompt))
        assert index.store(worker, None, names[:cut], prompt[:cut]).applied == cut
        rest = len(prompt) - cut
        assert index.store(worker, names[cut - 1] if cut else None, names[cut:], prompt[cut:]).applied == rest
        held[worker].append(prompt)
        query = chance.choice(held[worker]) if chance.random() < 0.5 else chance.choice(stems)
        expected = {worker: max(_common(query, one) for one in held[worker]) for worker in held if held[worker]}
        assert index.find(query) == {worker: depth for worker, depth in expected.items() if depth}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 32), salted=st.booleans())
def test_a_full_index_knows_less_and_nothing_wrong(seed: int, salted: bool) -> None:
    chance = random.Random(seed)
    index, model = PrefixIndex(blocks_max=60), PrefixModel()
    for _ in range(60):
        worker = chance.choice(_WORKERS)
        prompt = [chance.randrange(3) for _ in range(chance.randint(1, 20))]
        names = _names(prompt, salt=worker.dp_rank if salted else 0)
        applied = index.store(worker, None, names, prompt)
        model.store(worker, None, names, prompt)
        assert index.num_names <= 60
        assert index.find(prompt).get(worker, 0) == applied.applied
        query = [chance.randrange(3) for _ in range(20)]
        expected = model.find(query)
        assert all(depth <= expected[worker] for worker, depth in index.find(query).items())
        if chance.random() < 0.3:
            gone = names[chance.randrange(len(names)) :]
            index.remove(worker, gone)
            model.remove(worker, gone)
    for worker, held in model.names.items():
        index.remove(worker, list(held))
    assert index.num_names == index.num_runs == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_runs_are_as_few_as_live_blocks_allow_after_any_churn(seed: int) -> None:
    """Conversations come, branch and go from the end, as engines free them; what stays is no more than it looks."""
    chance = random.Random(seed)
    index = PrefixIndex()
    live: list[tuple[WorkerKey, list[int]]] = []
    for _ in range(300):
        worker = chance.choice(_WORKERS)
        prompt = chance.choice(live)[1] if live and chance.random() < 0.5 else []
        prompt = prompt[: chance.randint(0, len(prompt))] + [chance.getrandbits(64) for _ in range(30)]
        index.store(worker, None, _names(prompt), prompt)
        live.append((worker, prompt))
        if len(live) > 5:
            gone, prompt = live.pop(chance.randrange(5))
            index.remove(gone, _only(prompt, [other for holder, other in live if holder == gone]))
    paths = {tuple(prompt[: end + 1]) for _, prompt in live for end in range(len(prompt))}
    assert index.num_unique_blocks == len(paths)
    # Each of the five prompts ends somewhere, branches off somewhere, and is cut where others end.
    assert index.num_runs <= 4 * len(live)


def _names(prompt: list[int], salt: int = 0) -> list[int]:
    names, name = [], salt
    for token in prompt:
        name = hash((name, token)) % (1 << 64)
        names.append(name)
    return names


def _only(prompt: list[int], others: list[list[int]]) -> list[int]:
    """Return the names of a prompt's blocks that no other prompt of the worker needs, the last one first."""
    shared = max((_common(prompt, other) for other in others), default=0)
    return _names(prompt)[shared:][::-1]


def _common(a: list[int], b: list[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
