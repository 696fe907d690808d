"""What is found in the source of a graph before anything runs: calls that name no endpoint, or send too little."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynamo.runtime import DynamoError
from dynamo.sdk import Service
from dynamo.sdk._graph import outline
from dynamo.sdk._loader import load_service

HEAD = """
import contextlib
import sys
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field, model_serializer, model_validator

from dynamo.sdk import api, depends, dynamo_endpoint, endpoint, service


class Text(BaseModel):
    text: str


class Prompt(BaseModel):
    prompt: str
    text: str = ""


@service
class Worker:
    @dynamo_endpoint()
    async def generate(self, request: Text):
        yield request.text

    @dynamo_endpoint("v1/chat")
    async def chat(self, request: Prompt):
        return request.prompt

    @api
    async def web(self, request: Text):
        return ""

    async def helper(self):
        return ""
"""

CALLER = """

@service
class Caller:
    worker = depends(Worker)

    @endpoint
    async def ask(self, request: Text):
{body}
"""

MODELS = """

class Sent(BaseModel):
{sent}


class Wanted(BaseModel):
{wanted}


@service
class Taker:
    @endpoint
    async def take(self, request: Wanted):
        return ""


@service
class Caller:
    taker = depends(Taker)

    @endpoint
    async def ask(self, request: Sent):
        return await self.taker.take(request)
"""

Load = Callable[[str], Service[object]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a graph of this text; the files of errors are named from its directory on."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Service[object]:
        (tmp_path / "graph.py").write_text(HEAD + text)
        return load_service("graph:Caller", str(tmp_path))

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def calling(*lines: str) -> str:
    """A caller whose endpoint has this body."""
    return CALLER.format(body="\n".join(f"        {line}" for line in lines))


LINE = (HEAD + CALLER).count("\n")  # of the first line of the body


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "self.worker.generat(request)",
            "worker.generat, but Worker has no endpoint 'generat'; did you mean 'generate'?",
        ),
        ("self.worker.zzz(request)", "worker.zzz, but Worker has no endpoint 'zzz'; it has chat, generate, v1_chat"),
        ("self.worker.helper()", "no endpoint 'helper'; mark Worker.helper with @dynamo_endpoint()"),
        ("self.worker.web(request)", "no endpoint 'web'; Worker.web is for HTTP clients only"),
        ("await self.worker.get_endpoint('generat')", "no endpoint 'generat'; did you mean 'generate'?"),
        ("[x async for x in self.worker.generat(request)]", "Worker has no endpoint 'generat'"),
        ("call = lambda: self.worker.generat", "Worker has no endpoint 'generat'"),
        ("if request.text: self.worker.generat(request)", "Worker has no endpoint 'generat'"),
        ("with contextlib.suppress(KeyError): self.worker.generat(request)", "Worker has no endpoint 'generat'"),
    ],
)
def test_a_call_of_no_endpoint_is_named_with_its_line(load: Load, line: str, message: str) -> None:
    with pytest.raises(DynamoError) as raised:
        outline(load(calling(line)))
    assert str(raised.value).startswith(f"graph.py:{LINE}: Caller.ask calls worker.")
    assert message in str(raised.value)


@pytest.mark.parametrize("caught", ["KeyError", "Exception as error"])
def test_a_call_whose_failure_is_passed_on_is_named(load: Load, caught: str) -> None:
    text = calling("try:", "    self.worker.generat(request)", f"except {caught}:", "    print()", "    raise")
    with pytest.raises(DynamoError, match="Worker has no endpoint 'generat'"):
        outline(load(text))


@pytest.mark.parametrize(
    "line",
    [
        "await self.worker.chat(request)",
        "await self.worker.chat(Text(text=''))",
        "await self.worker.chat(request=Text(text=''))",
        "await self.worker.v1_chat(Text(text=''))",
        "await self.worker.chat(sys.modules and Text(text=''), context=None) or self.worker.chat(request)",
    ],
)
def test_a_request_that_lacks_a_field_is_named_with_its_line(load: Load, line: str) -> None:
    with pytest.raises(DynamoError) as raised:
        outline(load(calling(line)))
    assert str(raised.value).startswith(f"graph.py:{LINE}: Caller.ask sends Text to worker.")
    assert str(raised.value).endswith(
        "but Worker takes Prompt, whose field 'prompt' Text does not have",
    )


@pytest.mark.parametrize(
    "body",
    [
        ["self.worker.generate(request)"],
        ["self.worker.chat(Prompt(prompt=''))"],
        ["self.worker.chat({'prompt': ''})", "self.worker.chat('text')", "self.worker.chat()"],
        ["self.worker.generate(Prompt(prompt=''))"],
        ["getattr(self.worker, 'v1/chat')(request)"],
        ["await self.worker.get_endpoint('v1/chat')", "await self.worker.get_endpoint(request.text)"],
        ["await self.worker.close()", "self.worker._anything"],
        ["if hasattr(self.worker, 'other'):", "    self.worker.other()"],
        ["if isinstance(self.worker, Text):", "    self.worker.other()"],
        ["match self.worker:", "    case Text():", "        self.worker.other()"],
        ["try:", "    self.worker.other()", "except (KeyError, AttributeError):", "    pass"],
        ["try:", "    self.worker.other()", "except:", "    pass"],
        ["try:", "    self.worker.other()", "except Exception as error:", "    print(error)"],
        ["with contextlib.suppress(AttributeError):", "    self.worker.other()"],
        ["with contextlib.suppress(Exception):", "    self.worker.other()"],
        ["self.worker = Any", "self.worker.other()"],
        ["self.worker.other = 1", "self.worker.other()"],
        ["self.__dict__.update(worker=5)", "self.worker.other()"],
        ["vars(self)['worker'] = 5", "self.worker.other()"],
        ["setattr(self, request.text, 5)", "self.worker.other()"],
        ["for self.worker in []:", "    self.worker.other()"],
        ["def inner(self):", "    self.worker.other()"],
        ["call = lambda self: self.worker.other()"],
        ["class Other:", "    def method(self):", "        self.worker.other()"],
        ["self = Any", "self.worker.other()"],
        ["request = Prompt(prompt='')", "self.worker.chat(request)"],
        ["for request in []:", "    self.worker.chat(request)"],
        ["import graph as request", "self.worker.chat(request)"],
        ["[self.worker.chat(request) for request in []]"],
        ["match 5:", "    case request:", "        self.worker.chat(request)"],
        ["with Any as request:", "    self.worker.chat(request)"],
        ["if (request := Prompt(prompt='')):", "    self.worker.chat(request)"],
        ["Text = Prompt", "self.worker.chat(Text(prompt=''))"],
        ["from graph import Prompt as Text", "self.worker.chat(Text(prompt=''))"],
        ["def Text(): return Prompt(prompt='')", "self.worker.chat(Text())"],
        ["self.worker.chat(Text.model_validate({}))", "self.worker.chat(request.model_copy())"],
        ["self.worker.chat(*request)"],
        ["self.ask(Prompt(prompt=''))", "self.worker.chat(request)"],
        ["worker = self.worker", "worker.other()"],
    ],
)
def test_what_may_be_meant_is_passed_over(load: Load, body: list[str]) -> None:
    outline(load(calling(*body)))


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ("text: str", "text: str"),
        ("text: str\n    more: int = 1", "text: str"),
        ("text: str", "text: str\n    prompt: str = ''"),
        ("text: str", "text: str\n    prompt: str = Field(default_factory=str)"),
        ("text: str", "prompt: str = Field(alias='text')"),
        ("text: str", "prompt: str = Field(validation_alias=AliasChoices('text', 'prompt'))"),
        ("text: str = Field(serialization_alias='prompt')", "prompt: str"),
        ("text: str = Field(alias='prompt')", "prompt: str"),
        ("model_config = ConfigDict(extra='allow')\n    text: str", "prompt: str"),
        ("model_config = ConfigDict(alias_generator=str.upper)\n    text: str", "TEXT: str"),
        ("text: str", "model_config = ConfigDict(alias_generator=str.lower)\n    TEXT: str"),
        ("text: str\n    @computed_field\n    def prompt(self) -> str: return ''", "prompt: str"),
        ("text: str\n    @model_serializer\n    def dump(self): return {'prompt': ''}", "prompt: str"),
        ("text: str\n    def __new__(cls, **data): return Any", "prompt: str"),
        ("text: str\n    def model_dump(self, **keywords): return {'prompt': ''}", "prompt: str"),
        (
            "text: str",
            "prompt: str\n    @model_validator(mode='before')\n    @classmethod\n    def fill(cls, data): return data",
        ),
        (
            "text: str",
            "prompt: str\n    @model_validator(mode='wrap')\n    @classmethod\n    def fill(cls, data, f): return data",
        ),
        ("text: str", "prompt: str\n    @classmethod\n    def model_validate(cls, data): return cls(prompt='')"),
        ("text: str", "prompt: str\n    def __init__(self, **data): super().__init__(prompt='')"),
    ],
)
def test_a_model_that_may_fit_is_passed_over(load: Load, sent: str, wanted: str) -> None:
    outline(load(MODELS.format(sent=f"    {sent}", wanted=f"    {wanted}")))


def test_a_field_that_only_a_later_validator_could_add_is_missing(load: Load) -> None:
    wanted = "    prompt: str\n    @model_validator(mode='after')\n    def fill(self): return self"
    with pytest.raises(DynamoError, match="whose field 'prompt' Sent does not have"):
        outline(load(MODELS.format(sent="    text: str", wanted=wanted)))


def test_the_methods_of_bases_count_where_they_are_not_replaced(load: Load) -> None:
    mixin = """

class Mixin:
    def used(self): return self.worker.used_wrong()
    def replaced(self): return self.worker.replaced_wrong()


@service
class Caller(Mixin):
    worker = depends(Worker)
    @endpoint
    def replaced(self, request): return self.worker.generate(request)
"""
    with pytest.raises(DynamoError, match=r"Caller.used calls worker.used_wrong"):
        outline(load(mixin))


def test_a_dependency_that_stands_under_a_condition_is_believed(load: Load) -> None:
    text = """

@service
class Caller:
    if sys.argv:
        worker = depends(Worker)
    else:
        worker = None
    @endpoint
    async def ask(self, request): return self.worker.other()
"""
    outline(load(text))


def test_a_base_that_sets_the_attribute_is_believed(load: Load) -> None:
    base = """

class Base:
    def __init__(self): self.worker = object()


@service
class Caller(Base):
    worker = depends(Worker)
    @endpoint
    async def ask(self, request): return self.worker.other()
"""
    outline(load(base))


def test_a_base_whose_source_is_gone_is_believed(load: Load) -> None:
    base = """

namespace = {}
exec("class Base:\\n    def __init__(self): self.worker = object()", namespace)


@service
class Caller(namespace["Base"]):
    worker = depends(Worker)
    @endpoint
    async def ask(self, request): return self.worker.other()
"""
    outline(load(base))


def test_a_method_beneath_a_decorator_is_read_if_it_says_what_it_wraps(load: Load) -> None:
    text = """
import functools


def traced(function):
    @functools.wraps(function)
    def call(*args): return function(*args)
    return call


@service
class Caller:
    worker = depends(Worker)
    @endpoint
    @traced
    def ask(self, request): return self.worker.other()
"""
    with pytest.raises(DynamoError, match=r"Caller.ask calls worker.other"):
        outline(load(text))


def test_of_two_classes_of_one_name_the_right_one_is_read(load: Load) -> None:
    text = """

for wrong in ():
    class Caller:
        def ask(self): return self.worker.other()
else:
    @service
    class Caller:
        worker = depends(Worker)
        @endpoint
        def ask(self, request): return self.worker.generate(request)
"""
    outline(load(text))


def test_a_removed_dependency_is_not_looked_at(load: Load) -> None:
    text = """

@service
class Other(Worker): ...


@service
class Caller:
    worker = depends(Worker)
    other = depends(Other)
    @endpoint
    async def ask(self, request):
        if self.worker:
            return self.worker.gone()
        return self.other.generate(request)


Caller.link(Other)
"""
    outline(load(text))


def test_the_linked_service_is_the_one_that_is_called(load: Load) -> None:
    text = """

@service
class Special(Worker):
    @endpoint
    async def extra(self, request): return ""


@service
class Caller:
    worker = depends(Worker)
    @endpoint
    async def ask(self, request): return await self.worker.extra(request)
"""
    outline(load(text + "\nCaller.link(Special)\n"))
    del sys.modules["graph"]
    with pytest.raises(DynamoError, match="Worker has no endpoint 'extra'"):
        outline(load(text))


def test_what_is_called_on_a_condition_may_be_for_another_service_that_is_linked(load: Load) -> None:
    text = """
@service
class Plain(Worker): ...


@service
class Caller:
    worker = depends(Worker)
    def __init__(self, special: bool = False): self.special = special
    @endpoint
    async def ask(self, request):
        if self.special:
            return await self.worker.extra(request)
        return await self.worker.generate(request)
"""
    outline(load(text + "\nCaller.link(Plain)\n"))


def test_a_class_that_decides_itself_what_its_attributes_are_is_believed(load: Load) -> None:
    text = calling("return self.worker.other()")
    outline(load(text + "    def __getattribute__(self, name): return object.__getattribute__(self, name)\n"))


def test_a_file_that_changed_after_its_import_is_not_believed(load: Load) -> None:
    entry = load(calling("self.worker.generat(request)"))
    path = Path("graph.py")
    path.write_text("# another line\n" + path.read_text())
    outline(entry)
    path.write_text("no python (")
    outline(entry)
    path.unlink()
    outline(entry)


def test_the_examples_have_nothing_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(__file__).parents[2] / "examples" / "hello_world"
    path, modules = list(sys.path), set(sys.modules)
    try:
        assert [entry.name for entry in outline(load_service("hello_world", str(directory))).services] == [
            "Frontend",
            "Middle",
            "Backend",
        ]
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            del sys.modules[name]
