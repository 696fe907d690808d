"""What a handler gives that cannot be sent: the handler's fault, told as that to its caller and in its own log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dynamo._core.context import Context
from dynamo.runtime import DistributedRuntime, HandlerError

LONE_SURROGATE = "half of a pair: \ud83d"
UNSENDABLE = {
    "of no type that JSON has": (object(), "TypeError", "unsupported type object: send what JSON can say, or a model"),
    "no Unicode": ({"text": LONE_SURROGATE}, "UnicodeEncodeError", "surrogates not allowed"),
    "a number of 65 bits": ([1 << 64], "OverflowError", ""),
}


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


@pytest.mark.parametrize(("item", "type_name", "why"), UNSENDABLE.values(), ids=UNSENDABLE)
async def test_an_item_that_cannot_be_sent_is_the_fault_of_its_handler(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture, item: object, type_name: str, why: str
) -> None:
    async def gives(request: str) -> AsyncIterator[object]:
        yield "well"
        yield item

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(gives)
    client = await endpoint.client()
    stream = await client.generate("x", annotated=False, context=Context("r-1"))
    assert await anext(stream) == "well"
    with pytest.raises(HandlerError, match="an item of the answer cannot be sent: ") as caught:
        await anext(stream)
    assert (caught.value.type_name, caught.value.details["code"]) == (type_name, "unsendable_item")
    assert why in caught.value.message
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("ns/comp/ep failed in request r-1: an item of the answer cannot be sent: ")
    assert why in record.getMessage()


async def test_an_item_whose_model_fails_to_dump_itself_is_told_with_the_place(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def model_dump(self, mode: str) -> object:
            raise ZeroDivisionError("no fields")

    async def gives(request: str) -> object:
        return Broken()

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(gives)
    client = await endpoint.client()
    with pytest.raises(HandlerError, match="no fields") as caught:
        await anext(await client.generate("x"))
    assert caught.value.type_name == "ZeroDivisionError"
    assert "test_unsendable_items.py:" in caplog.text
