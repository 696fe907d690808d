"""Tenants are kept apart at the servers, too: wherever a salt is said, the server gets it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.frontend.route.fake_server import fake_server, says
from tests.frontend.route.scene import DEADLINE_S, LONG, chat, routing
from tests.llm.kv.fake_vllm import fake_vllm, stored

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._route.prompts import Fields, fields_of
from dynamo.frontend._route.salts import salt_of, with_salt
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor

ACME = [(b"host", b"here"), (b"x-tenant-id", b"acme")]
COMPLETIONS = "/v1/completions"


@pytest.mark.parametrize(
    ("fields", "salt"),
    [
        ({"cache_salt": "s"}, "s"),
        ({"nvext": {"cache_salt": "s"}}, "s"),
        ({"cache_salt": "s", "nvext": {"cache_salt": "t"}}, "s"),
        ({"cache_salt": "", "nvext": {"cache_salt": ""}}, None),
        ({"cache_salt": 1, "nvext": "s"}, None),
        ({}, None),
    ],
)
def test_a_salt_is_read_as_vllm_and_our_frontend_take_it(fields: Fields, salt: str | None) -> None:
    assert salt_of([], fields) == salt


@pytest.mark.parametrize(
    "fields", [{}, {"cache_salt": "acme"}, {"nvext": {"cache_salt": "acme"}}, {"cache_salt": None}]
)
def test_the_header_says_it_unless_the_body_contradicts(fields: Fields) -> None:
    assert salt_of(ACME, fields) == "acme"


@pytest.mark.parametrize("fields", [{"cache_salt": "s"}, {"nvext": {"cache_salt": "s"}}, {"cache_salt": 1}])
def test_a_body_that_contradicts_the_header_is_refused(fields: Fields) -> None:
    with pytest.raises(InvalidArgument, match="x-tenant-id and the body's 'cache_salt' differ"):
        salt_of(ACME, fields)


def salted(body: bytes, salt: str | None) -> bytes:
    return with_salt(body, fields_of(body), salt)


@pytest.mark.parametrize("body", [b'{ "a" : 1}', b'{"cache_salt":  "s"}', b"", b"[]", b"\xff"])
def test_a_body_without_a_salt_or_with_its_own_stays_as_it_is(body: bytes) -> None:
    assert salted(body, "s" if b"salt" in body else None) == body


def test_the_salt_is_added_and_every_value_stays_as_it_was_written() -> None:
    body = b'{"a" : [1e400, "h\\u00fc"],  "cache_salt": null, "nvext": {"cache_salt": "\xc3\xa4\\""}}'
    made = salted(body, 'ä"')
    assert b'[1e400, "h\\u00fc"]' in made
    assert msgspec.json.decode(made, type=dict[str, msgspec.Raw]).keys() == {"a", "cache_salt", "nvext"}
    assert fields_of(made) == {"cache_salt": 'ä"', "nvext": {"cache_salt": 'ä"'}}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a": ' + b"[" * 100_000, b"\x1f\x8b"])
def test_a_body_that_has_no_place_for_a_salt_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="the body must be a JSON object: what the header x-tenant-id says"):
        salted(body, "s")


@pytest.mark.parametrize("mode", ["round-robin", "kv"])
async def test_a_server_gets_the_salt_in_its_body_however_it_is_said(mode: str) -> None:
    async with fake_server(says("one")) as one, routing(one.url, router_mode=mode) as route:
        await route.post(chat(LONG), x_tenant_id="a")
        await route.post(chat(LONG, nvext={"cache_salt": "b"}))
        await route.post({"prompt": LONG}, COMPLETIONS, x_tenant_id="c")
        await route.post({"prompt": LONG}, "/tokenize", x_tenant_id="d")
        assert [seen.fields.get("cache_salt") for seen in one.seen] == ["a", "b", "c", None]
        refused = [
            await route.post(chat(LONG, cache_salt="b"), x_tenant_id="a"),
            await route.post(chat(LONG), x_tenant_id="a/b"),
            await route.post([], x_tenant_id="a"),
        ]
        assert [answer.status_code for answer in refused] == [400] * 3
        assert refused[0].json()["error"]["param"] == "x-tenant-id"
        assert len(one.seen) == 4


async def test_tenants_of_the_header_do_not_count_on_the_cache_of_others() -> None:
    async with fake_server(says("one")) as one, routing(one.url, router_mode="kv") as route:
        predicted = []
        for tenant in ("a", "a", "b"):
            answer = (await route.post(chat(LONG), x_tenant_id=tenant, x_dynamo_explain="1")).json()
            predicted.append(answer["nvext"]["explain"]["decisions"][0]["predicted_cached_tokens"])
        assert predicted[0] == predicted[2] == 0
        assert predicted[1] > 0


async def test_the_events_of_what_vllm_computed_with_a_salt_are_found_by_it(tiny_model: Path) -> None:
    preprocessor = await Preprocessor.load(ModelCard.from_local_path(tiny_model))
    tokens = (await preprocessor.chat([{"role": "user", "content": LONG}])).token_ids
    preprocessor.close()
    num_blocks = (len(tokens) - 1) // 32
    async with (
        fake_vllm() as engine,
        fake_server(says("one")) as one,
        routing(
            one.url,
            router_mode="kv",
            model_path=str(tiny_model),
            backend_kv_events=f"{engine.endpoint},{engine.replay_endpoint}",
        ) as route,
    ):
        await engine.subscribed()
        await engine.publish(stored(tokens[: num_blocks * 32], 32, extra_keys=[["acme"], *[None] * (num_blocks - 1)]))
        async with asyncio.timeout(DEADLINE_S):
            while await route.metric(f'dynamo_route_kv_blocks{{backend="{one.url}"}}') != num_blocks:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        found = []
        for tenant in ("acme", "other"):
            answer = (await route.post(chat(LONG), x_tenant_id=tenant, x_dynamo_explain="1")).json()
            found.append(answer["nvext"]["explain"]["decisions"][0]["predicted_cached_tokens"])
        assert found == [num_blocks * 32, 0]
