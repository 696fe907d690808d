"""An interface, two services that implement it, and a frontend that doesn't know which of them it calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.sdk import AbstractService, abstract_endpoint, api, depends, endpoint, service


class Prompt(BaseModel):
    text: str


class Description(BaseModel):
    name: str
    words_per_prompt_max: int


class Engine(AbstractService):
    """What the frontend needs of an engine."""

    @abstract_endpoint
    def generate(self, request: Prompt) -> AsyncIterator[str]:
        """Answer a prompt, word by word."""
        raise NotImplementedError

    @abstract_endpoint
    async def describe(self) -> Description:
        """Say what the engine is and can."""
        raise NotImplementedError


@service(dynamo={"namespace": "injected"})
class EchoEngine(Engine):
    """Says again what it is told."""

    @endpoint
    async def generate(self, request: Prompt) -> AsyncIterator[str]:
        for word in request.text.split():
            yield word

    @endpoint
    async def describe(self) -> Description:
        return Description(name="echo", words_per_prompt_max=1000)


@service(dynamo={"namespace": "injected"}, workers=2)
class ShoutingEngine(Engine):
    """Says it louder, in two processes."""

    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    @endpoint
    async def generate(self, request: Prompt) -> AsyncIterator[str]:
        for word in request.text.split():
            yield f"{word.upper()}{self.mark}"

    @endpoint
    async def describe(self) -> Description:
        return Description(name="shouting", words_per_prompt_max=10)


@service(dynamo={"namespace": "injected"})
class Frontend:
    engine = depends(Engine)

    @api
    async def generate(self, request: Prompt) -> AsyncIterator[str]:
        """Stream what the engine answers, as far as it takes the prompt."""
        description = await self.engine.describe()
        words = request.text.split()[: description.words_per_prompt_max]
        yield f"{description.name}:"
        async for word in self.engine.generate(Prompt(text=" ".join(words))):
            yield f" {word}"
