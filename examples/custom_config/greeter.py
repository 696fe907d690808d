"""A graph that can be configured in every way there is."""

from __future__ import annotations

import os

from engine import Engine, EngineArgs, make_parser
from pydantic import BaseModel

from dynamo.sdk import api, depends, dynamo_context, dynamo_endpoint, service
from dynamo.sdk.lib.config import ServiceConfig


class Answer(BaseModel):
    text: str
    model: str
    #: Where the worker says it is, by a variable of its environment.
    region: str
    worker_id: int


def parse_engine_args(service_name: str) -> EngineArgs:
    """Let the parser of the engine read the keys of the section that begin with `engine-`."""
    arguments = ServiceConfig.get_instance().as_args(service_name, prefix="engine-")
    return EngineArgs(**vars(make_parser().parse_args(arguments)))


@service(dynamo={"namespace": "configured"}, workers=1)
class Greeter:
    def __init__(self, greeting: str = "Hello", punctuation: str = "!") -> None:
        # Parameters are filled from the section of the service, or stay what they are here.
        self.greeting = greeting
        self.punctuation = punctuation
        self.args = parse_engine_args("Greeter")
        self.engine = Engine(self.args)

    @dynamo_endpoint()
    async def greet(self, name: str) -> Answer:
        return Answer(
            text=f"{self.greeting} {self.engine.generate(name)}{self.punctuation}",
            model=self.args.model,
            region=os.environ.get("REGION", "nowhere"),
            worker_id=dynamo_context["worker_id"],
        )


@service(dynamo={"namespace": "configured"})
class Frontend:
    greeter = depends(Greeter)

    def __init__(self) -> None:
        # Any key of a section can be read, whether or not it is a parameter.
        section = ServiceConfig.get_instance().get("Frontend", {})
        self.name = section.get("default_name", "you")

    @api(http_method="GET")
    async def greet(self, name: str | None = None) -> Answer:
        return await self.greeter.greet(name or str(self.name))
