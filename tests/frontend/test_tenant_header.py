"""A proxy's word on who asks: the salt of the request, which the request cannot contradict."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.frontend.mocked import BLOCK_SIZE, mocked

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._tenant_header import take_tenant
from dynamo.llm._openai import CompletionRequest, parse

PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))


def request(**fields: str) -> CompletionRequest:
    return parse(CompletionRequest, {"model": "m", "prompt": "x", **fields})


def salted(*values: bytes, **fields: str) -> CompletionRequest:
    asked = request(**fields)
    take_tenant([(b"host", b"here"), *((b"x-tenant-id", value) for value in values)], asked)
    return asked


def test_a_tenant_is_a_salt_also_in_what_text_workers_are_sent() -> None:
    assert salted(b" acme ").salt == "acme"
    assert salted(b"a cme").salt == "a cme"
    assert salted(b"acme").body()["cache_salt"] == "acme"
    assert salted(b"acme", b"acme", cache_salt="acme").salt == "acme"
    assert "cache_salt" not in salted().body()
    assert salted(cache_salt="mine").salt == "mine"


@pytest.mark.parametrize("value", [b"", b" ", b"a@b", b"a/b", b"a\x01", b"a\tb", b"x" * 129, "ä".encode()])
def test_a_tenant_that_is_no_salt_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidArgument, match="x-tenant-id must be 1 to 128 printable ASCII characters") as caught:
        salted(value)
    assert caught.value.details["param"] == "x-tenant-id"


def test_a_request_does_not_say_otherwise() -> None:
    with pytest.raises(InvalidArgument, match="and the body's 'cache_salt' differ"):
        salted(b"acme", cache_salt="other")
    with pytest.raises(InvalidArgument, match="several headers x-tenant-id, which differ"):
        salted(b"acme", b"other")


async def test_tenants_have_caches_of_their_own(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        found = []
        for tenant in ("acme", "acme", "other"):
            answer = await scene.ask(PROMPT, headers={"x-tenant-id": tenant})
            found.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert found == [0, 4 * BLOCK_SIZE, 0]
        refused = await scene.ask(PROMPT, headers={"x-tenant-id": "acme"}, cache_salt="other")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "x-tenant-id")
