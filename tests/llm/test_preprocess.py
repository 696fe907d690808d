"""Chat templates, tokenization and the checks on a request, against transformers and the tiny model."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument, Overloaded
from dynamo.llm import _limits
from dynamo.llm._chat_template import ChatTemplate, Message
from dynamo.llm._messages import OutputOptions, SamplingOptions, StopConditions
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor, RequestOptions
from dynamo.llm._tokenizer import Tokenizer

USER: Message = {"role": "user", "content": "How late is it?"}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": {"zone": "Köln <&>"}}}

PARTS: list[Message] = [
    {"role": "user", "content": [{"type": "text", "text": "Wie spät "}, {"type": "text", "text": "ist es? 🙂"}]}
]
CONVERSATIONS: list[list[Message]] = [
    PARTS,
    [USER],
    [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Ten."}, USER],
    [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "10:00"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "<|eot|> in the text, {{ braces }}\n\n  and spaces  "}],
]

# Templates in the manner of well-known models, for what the tiny model's own does not use.
TEMPLATES = [
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}\n{% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n"
    "    {% if m.role == 'tool' %}{% continue %}{% endif %}\n{{ ns.n }}: {{ m.role }}\n{% endfor %}\n",
    "{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}{% endgeneration %}{{ x }};{% endfor %}",
    "{{ messages | tojson(indent=2) }}{{ tools | tojson }}{{ add_generation_prompt }}{{ 'now' if strftime_now('%Y') }}",
]


@pytest.fixture
async def preprocessor(tiny_model: Path) -> AsyncIterator[Preprocessor]:
    loaded = await Preprocessor.load(ModelCard.from_local_path(tiny_model))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Any:
    """The tokenizer of transformers, whose types are narrower than what it takes."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def template(source: str, **special_tokens: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens, name="test-model")


# The same as transformers.


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, [CLOCK]])
async def test_a_conversation_gives_the_token_ids_of_transformers(
    preprocessor: Preprocessor,
    reference: Any,
    messages: list[Message],
    tools: list[dict[str, object]] | None,
) -> None:
    expected = reference.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=False)
    request = await preprocessor.chat(messages, tools=tools)
    assert request.token_ids == expected


@pytest.mark.parametrize("messages", [messages for messages in CONVERSATIONS if messages is not PARTS])
@pytest.mark.parametrize("source", TEMPLATES)
def test_a_template_renders_as_in_transformers(reference: Any, messages: list[Message], source: str) -> None:
    expected = reference.apply_chat_template(messages, chat_template=source, tokenize=False)
    special: dict[str, str] = reference.special_tokens_map
    assert template(source, **special).render(messages, add_generation_prompt=False) == expected


@pytest.mark.parametrize("prompt", ["Once upon a time", " 中文 \n", "<|user|>x<|eot|>"])
async def test_a_plain_prompt_gets_the_special_tokens_that_transformers_adds(
    preprocessor: Preprocessor, reference: Any, prompt: str
) -> None:
    request = await preprocessor.completion(prompt)
    assert request.token_ids == reference(prompt)["input_ids"]
    assert request.token_ids[0] == reference.bos_token_id


# The forms that templates take.


def test_parts_are_joined_for_a_template_that_takes_text() -> None:
    parts: Message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    for source in (
        "{{ messages[0].content }}",
        "{{ messages[0].content | tojson }}",
        "{{ 'x' + messages[0].content }}",
    ):
        made = template(source)
        assert (made.takes_text, made.takes_parts) == (True, False)
        assert "a\nb" in made.render([parts]).replace("\\n", "\n")


def test_text_becomes_a_part_for_a_template_that_takes_parts() -> None:
    made = template("{% for part in messages[0].content %}<{{ part.text }}>{% endfor %}")
    assert (made.takes_text, made.takes_parts) == (False, True)
    assert made.render([{"role": "user", "content": "whole"}]) == "<whole>"


@pytest.mark.parametrize(
    ("expression", "shown"),
    [("arguments | tojson", '{"zone": "Köln"}'), ("arguments.zone", "Köln"), ("arguments", '{"zone":"Köln"}')],
)
def test_arguments_of_a_tool_call_have_the_form_that_the_template_takes(expression: str, shown: str) -> None:
    made = template(
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function." + expression + " }}{% endfor %}{% endfor %}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"zone":"Köln"}'}}
    assert made.render([USER, {"role": "assistant", "tool_calls": [call]}]) == shown


def test_arguments_are_text_for_a_template_that_concatenates_them() -> None:
    made = template(
        "{% for m in messages %}{% for c in m.tool_calls %}{{ '> ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    assert made.render([USER, {"role": "assistant", "tool_calls": [call]}]) == "> {}"


async def test_arguments_that_are_not_json_are_refused(preprocessor: Preprocessor) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{zone}"}}
    with pytest.raises(
        InvalidArgument, match=r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is not a JSON object"
    ):
        await preprocessor.chat([USER, {"role": "assistant", "tool_calls": [call]}])


async def test_a_picture_is_refused_by_a_text_model(preprocessor: Preprocessor) -> None:
    with pytest.raises(InvalidArgument, match=r"messages\[0\]\.content\[0\] is of type 'image_url'; .* text only"):
        await preprocessor.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_a_template_for_tools_is_taken_when_there_are_tools(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model)
    sources = {"default": "plain{{ messages[0].content }}", "tool_use": "tools{{ messages[0].content }}"}
    made = Preprocessor(msgspec.structs.replace(card, chat_templates=sources), Tokenizer.for_card(card))
    assert made.render([USER]).startswith("plain")
    assert made.render([USER], tools=[]).startswith("plain")
    assert made.render([USER], tools=[CLOCK]).startswith("tools")
    made.close()


# Whose fault it is.


def test_a_template_with_a_syntax_error_is_broken_at_a_line() -> None:
    with pytest.raises(ConfigError, match="the chat template of test-model is broken at line 2"):
        template("ok\n{% for %}")


def test_a_template_that_always_fails_is_broken() -> None:
    with pytest.raises(ConfigError, match="fails on a single user message: UndefinedError"):
        template("{{ nothing.there.at.all }}")


def test_what_the_template_refuses_is_the_requests_fault() -> None:
    made = template("{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}")
    with pytest.raises(InvalidArgument, match="refuses these messages: one at a time"):
        made.render([USER, USER])


def test_what_the_template_cannot_digest_is_the_requests_fault() -> None:
    made = template("{% for m in messages %}{{ 'x' + m.content }}{% endfor %}")
    with pytest.raises(InvalidArgument, match="cannot render these messages: TypeError"):
        made.render([{"role": "user", "content": 7}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ range(10**9) | list }}",
        "{{ 'x'.format.__globals__.os }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    made = template("{% if messages | length > 1 %}" + attack + "{% endif %}")
    with pytest.raises(DynamoError) as caught:
        made.render([USER, USER])
    assert isinstance(caught.value, ConfigError | InvalidArgument)


def test_a_prompt_that_a_template_blows_up_is_refused() -> None:
    made = template("{% for m in messages[1:] %}{% for i in range(90000) %}{{ m.content }}{% endfor %}{% endfor %}")
    with pytest.raises(InvalidArgument, match=f"longer than {_limits.PROMPT_CHARS_MAX} characters"):
        made.render([USER, {"role": "user", "content": "x" * 1000}])


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "range", "_x"])
def test_a_request_cannot_replace_what_the_server_gives_to_a_template(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"argument '{name}' is set by the server"):
        template("x", bos_token="<s>").render([USER], template_args={name: 1})


def test_a_request_may_set_a_switch_of_the_template() -> None:
    made = template("{{ 'deep' if enable_thinking else 'quick' }}")
    assert made.render([USER], template_args={"enable_thinking": True}) == "deep"
    assert made.render([USER]) == "quick"


async def test_a_model_without_template_cannot_be_chatted_with(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    base = await Preprocessor.load(ModelCard.from_local_path(tmp_path / "base"))
    with pytest.raises(InvalidArgument, match="base has no chat template and cannot be chatted with"):
        await base.chat([USER])
    assert (await base.completion("Once")).token_ids
    base.close()


# What is filled in.


async def test_what_a_request_leaves_open_is_filled_in_from_the_card(preprocessor: Preprocessor) -> None:
    request = await preprocessor.completion([10, 11, 12])
    assert request.model == "tiny-model"
    assert request.token_ids == [10, 11, 12]
    assert request.stop_conditions.max_tokens == 4096 - 3
    assert request.eos_token_ids == [3, 1]


async def test_the_models_sampling_defaults_give_way_to_the_request(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "top_p": 0.9}')
    made = await Preprocessor.load(ModelCard.from_local_path(tmp_path / "m"))
    request = await made.completion("x", RequestOptions(sampling_options=SamplingOptions(temperature=0.0, seed=7)))
    assert request.sampling_options == SamplingOptions(temperature=0.0, top_p=0.9, seed=7)
    made.close()


async def test_what_a_request_says_is_kept_and_not_changed(preprocessor: Preprocessor) -> None:
    options = RequestOptions(
        StopConditions(max_tokens=5, min_tokens=2, stop=["END"], stop_token_ids=[9], ignore_eos=True),
        SamplingOptions(n=2),
        OutputOptions(logprobs=3),
        ("token_ids",),
    )
    request = await preprocessor.chat([USER], options)
    assert request.stop_conditions == options.stop_conditions
    assert request.sampling_options == options.sampling_options
    assert request.output_options == options.output_options
    assert request.annotations == ["token_ids"]
    await preprocessor.chat([USER], RequestOptions(open_ := StopConditions()))
    assert open_.max_tokens is None


# What does not fit.


async def test_a_prompt_over_the_context_names_both_numbers(preprocessor: Preprocessor) -> None:
    with pytest.raises(
        InvalidArgument, match="the prompt has 4096 tokens, but this model's context length is 4096"
    ) as caught:
        await preprocessor.completion([9] * 4096)
    assert caught.value.details == {"prompt_tokens": 4096, "context_length": 4096}
    with pytest.raises(InvalidArgument, match=r"the prompt has \d+ tokens, but this model's context length is 4096"):
        await preprocessor.chat([{"role": "user", "content": "word " * 5000}])


async def test_more_tokens_than_fit_are_refused_with_all_numbers(preprocessor: Preprocessor) -> None:
    wanted = RequestOptions(StopConditions(max_tokens=4087))
    with pytest.raises(
        InvalidArgument, match="4097 were asked for: 10 in the prompt and 4087 as max_tokens; at most 4086"
    ):
        await preprocessor.completion([9] * 10, wanted)
    fits = await preprocessor.completion([9] * 10, RequestOptions(StopConditions(max_tokens=4086)))
    assert fits.stop_conditions.max_tokens == 4086


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RequestOptions(StopConditions(max_tokens=0)), "max_tokens is 0; it must be at least 1"),
        (RequestOptions(StopConditions(min_tokens=-1)), "min_tokens is -1"),
        (RequestOptions(StopConditions(max_tokens=3, min_tokens=4)), "min_tokens is 4, more than the 3 tokens allowed"),
        (RequestOptions(StopConditions(stop=["x"] * 100_000)), "stop strings: 100000; at most 16 are allowed"),
        (RequestOptions(StopConditions(stop=["x" * 2000])), "characters of a stop string: 2000; at most 1024"),
        (RequestOptions(StopConditions(stop=[""])), "characters of a stop string: 0; at least 1"),
        (RequestOptions(StopConditions(stop_token_ids=[2048])), "stop_token_ids has token id 2048; .* 0 to 2047"),
        (RequestOptions(StopConditions(stop_token_ids=[-1])), "stop_token_ids has token id -1"),
        (RequestOptions(sampling_options=SamplingOptions(n=10**6)), "n: 1000000; at most 128 are allowed"),
        (RequestOptions(sampling_options=SamplingOptions(n=0)), "n: 0; at least 1 are allowed"),
        (RequestOptions(output_options=OutputOptions(logprobs=21)), "logprobs: 21; at most 20 are allowed"),
    ],
)
async def test_an_option_out_of_range_is_refused_by_name(
    preprocessor: Preprocessor, options: RequestOptions, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        await preprocessor.completion("x", options)
    with pytest.raises(InvalidArgument, match=message):
        await preprocessor.chat([USER], options)


async def test_nothing_to_say_is_refused(preprocessor: Preprocessor) -> None:
    with pytest.raises(InvalidArgument, match="messages: 0; at least 1"):
        await preprocessor.chat([])
    with pytest.raises(InvalidArgument, match="the prompt is empty"):
        await preprocessor.completion([])


async def test_too_many_messages_or_tools_are_refused(preprocessor: Preprocessor) -> None:
    with pytest.raises(InvalidArgument, match="messages: 5000; at most 4096"):
        await preprocessor.chat([USER] * 5000)
    with pytest.raises(InvalidArgument, match="tools: 1000; at most 512"):
        await preprocessor.chat([USER], tools=[CLOCK] * 1000)


async def test_too_long_a_text_is_refused_before_it_is_tokenized(preprocessor: Preprocessor) -> None:
    text = "x" * (_limits.PROMPT_CHARS_MAX + 1)
    with pytest.raises(InvalidArgument, match="the prompt has 16777217 characters"):
        await preprocessor.completion(text)
    with pytest.raises(InvalidArgument, match="characters; at most 16777216"):
        await preprocessor.chat([{"role": "user", "content": [{"type": "text", "text": text}]}])


@pytest.mark.parametrize("token_id", [-1, 2048, 2**63])
async def test_a_token_id_that_the_model_does_not_have_is_refused(preprocessor: Preprocessor, token_id: int) -> None:
    with pytest.raises(InvalidArgument, match=f"prompt has token id {token_id}; this model's are 0 to 2047"):
        await preprocessor.completion([1, token_id])


async def test_half_of_a_surrogate_pair_is_refused(preprocessor: Preprocessor) -> None:
    with pytest.raises(InvalidArgument, match="half of a surrogate pair"):
        await preprocessor.completion("\ud83d")
    with pytest.raises(InvalidArgument, match="half of a surrogate pair"):
        await preprocessor.chat([{"role": "user", "content": "\ud83d"}])


# Off the event loop.


async def test_a_long_prompt_is_tokenized_in_a_thread_and_a_short_one_is_not(preprocessor: Preprocessor) -> None:
    tokenizer = preprocessor.tokenizer
    here = threading.get_ident()
    assert await tokenizer.compute(_limits.ENCODE_INLINE_CHARS_MAX, threading.get_ident) == here
    assert await tokenizer.compute(_limits.ENCODE_INLINE_CHARS_MAX + 1, threading.get_ident) != here


async def test_the_event_loop_runs_on_while_a_long_prompt_is_tokenized(preprocessor: Preprocessor) -> None:
    turns = 0
    async with asyncio.timeout(60):
        while turns <= 100:  # were the interpreter locked meanwhile, there would be a handful each time
            turns = 0
            encoding = asyncio.ensure_future(preprocessor.completion("def f(x): return x\n" * 20_000))
            while not encoding.done():
                await asyncio.sleep(0)
                turns += 1
            with pytest.raises(InvalidArgument, match="this model's context length is 4096"):
                encoding.result()


async def test_more_long_prompts_than_may_wait_are_refused_and_those_that_wait_are_done(
    preprocessor: Preprocessor,
) -> None:
    places = _limits.TOKENIZER_THREADS + _limits.TOKENIZER_QUEUE_MAX
    gate = threading.Event()
    long = _limits.ENCODE_INLINE_CHARS_MAX + 1
    try:
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(preprocessor.tokenizer.compute(long, gate.wait)) for _ in range(places)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="256 long prompts wait to be tokenized"):
                await preprocessor.tokenizer.compute(long, gate.wait)
            waiting[-1].cancel()  # one that has not begun gives its place back
            gate.set()
    finally:
        gate.set()
    assert all(task.result() for task in waiting[:-1])
    assert await preprocessor.tokenizer.compute(long, lambda: 7) == 7
