"""What a block is called: the same by routers, engines and their events, and never the same for two tenants."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.llm.kv.fake_vllm import encoded, stored

from dynamo._core.blocks import sequence_hashes
from dynamo._core.context import Context
from dynamo.llm import PreprocessedRequest
from dynamo.llm._kv_faults import Faults
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_vllm_blocks import VllmBlocks
from dynamo.llm._kv_vllm_events import read_batch
from dynamo.llm._nvext import CACHE_SALT_CHARS_MAX
from dynamo.llm._routing import NO_HINTS
from dynamo.mocker._sequence import TokenSequence
from dynamo.transformers._block_pool import BlockChain

TOKENS = st.lists(st.integers(0, 200_000), min_size=4, max_size=120)
BLOCK_SIZES = st.integers(2, 16)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=CACHE_SALT_CHARS_MAX)


def asked(token_ids: list[int], salt: str | None, adapter: str | None = None) -> PreprocessedRequest:
    return PreprocessedRequest("m", token_ids, cache_salt=salt, lora_name=adapter)


def by_the_router(request: PreprocessedRequest, block_size: int) -> list[int]:
    return Prompt.of(NO_HINTS.asked(request, Context(), request.token_ids, ()), block_size).tokens_hashes


def by_the_mocker(request: PreprocessedRequest, block_size: int) -> list[int]:
    sequence = TokenSequence(request, block_size=block_size, max_context_length=1000)
    for count in range(1, len(request.token_ids) // block_size + 1, 3):
        sequence.hash_blocks(count)
    sequence.hash_blocks(len(request.token_ids) // block_size)
    assert sequence.block_hashes == sequence_hashes(sequence.tokens_hashes)
    return list(sequence.tokens_hashes)


def by_transformers(request: PreprocessedRequest, block_size: int) -> list[int]:
    chain = BlockChain(request.cache_salt)
    for end in range(0, len(request.token_ids), 7):
        chain.extend(request.token_ids[:end], block_size)
    chain.extend(request.token_ids, block_size)
    assert chain.block_hashes == sequence_hashes(chain.tokens_hashes)
    return list(chain.tokens_hashes)


class Told:
    """Keeps what is told of blocks."""

    def __init__(self) -> None:
        self.tokens_hashes: list[int] = []

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        self.tokens_hashes += tokens_hashes or ()

    def removed(self, block_hashes: Sequence[int]) -> None:
        raise AssertionError

    def cleared(self) -> None:
        raise AssertionError


def by_vllms_events(request: PreprocessedRequest, block_size: int) -> list[int]:
    """As vLLM tells of it: the prompt's first two blocks, and each of the others by itself, as if generated."""
    told = Told()
    blocks = VllmBlocks(told, block_size, Faults(logging.getLogger("test"), "test", lambda: 0.0))
    num_blocks, at, parent = len(request.token_ids) // block_size, 0, None
    while at < num_blocks:
        end = min(num_blocks, 2 if at == 0 else at + 1)
        adapter = [request.lora_name] if request.lora_name else []
        keys = [[*adapter, *([request.cache_salt] if n == 0 and request.cache_salt else [])] for n in range(at, end)]
        event = stored(
            request.token_ids[at * block_size : end * block_size], block_size, parent, list(range(at + 1, end + 1)),
            lora_name=request.lora_name, extra_keys=[key or None for key in keys],
        )  # fmt: skip
        for raw in read_batch(encoded(event)):
            blocks.take(raw)
        at, parent = end, end
    return told.tokens_hashes


Naming = Callable[[PreprocessedRequest, int], list[int]]
NAMINGS: list[Naming] = [by_the_router, by_the_mocker, by_transformers, by_vllms_events]


@pytest.mark.parametrize("naming", NAMINGS)
@given(token_ids=TOKENS, block_size=BLOCK_SIZES, salts=st.sets(NAMES, min_size=2, max_size=2))
def test_two_salts_have_no_block_in_common_and_one_salt_has_all(
    naming: Naming, token_ids: list[int], block_size: int, salts: set[str]
) -> None:
    one, other = sorted(salts)
    named = {salt: naming(asked(token_ids, salt), block_size) for salt in (None, one, other)}
    assert all(len(hashes) == len(token_ids) // block_size for hashes in named.values())
    assert disjoint(named.values())
    assert disjoint(set(sequence_hashes(hashes)) for hashes in named.values())
    assert naming(asked(token_ids, one), block_size) == named[one]


@given(token_ids=TOKENS, block_size=BLOCK_SIZES, salt=st.none() | NAMES, adapter=st.none() | NAMES)
def test_routers_engines_and_their_events_call_a_block_the_same(
    token_ids: list[int], block_size: int, salt: str | None, adapter: str | None
) -> None:
    request = asked(token_ids, salt, adapter)
    expected = by_the_router(request, block_size)
    assert by_the_mocker(request, block_size) == by_vllms_events(request, block_size) == expected
    if adapter is None:
        assert by_transformers(request, block_size) == expected


@given(token_ids=TOKENS, block_size=BLOCK_SIZES, name=NAMES)
def test_a_salt_is_no_adapter_of_the_same_name(token_ids: list[int], block_size: int, name: str) -> None:
    kinds = [asked(token_ids, salt, adapter) for salt in (None, name) for adapter in (None, name)]
    assert disjoint(by_the_router(kind, block_size) for kind in kinds)


def test_requests_of_older_frontends_have_no_salt_and_older_workers_are_sent_none() -> None:
    read = msgspec.msgpack.decode(msgspec.msgpack.encode({"model": "m", "token_ids": [1]}), type=PreprocessedRequest)
    assert (read.cache_salt, read.lora_name) == (None, None)
    assert b"salt" not in msgspec.msgpack.encode(asked([1], None))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked([1], "s", "a")), type=PreprocessedRequest) == asked(
        [1], "s", "a"
    )


def disjoint(sets: Iterable[Iterable[int]]) -> bool:
    return all(one.isdisjoint(other) for one, other in combinations(map(set, sets), 2))
