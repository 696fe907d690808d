"""What people may send, and how they are told what they may not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from dynamo._core.errors import InvalidArgument
from dynamo.llm._nvext import CACHE_SALT_CHARS_MAX
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse, refuse_unserved

CHAT: dict[str, JsonValue] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, JsonValue] = {"model": "m", "prompt": "hi"}


def refusal(kind: type[OpenAIRequest], body: JsonValue) -> InvalidArgument:
    """Return why a body is refused."""
    with pytest.raises(InvalidArgument) as caught:
        refuse_unserved(parse(kind, body))
    return caught.value


def test_the_smallest_requests_are_enough() -> None:
    assert parse(ChatRequest, CHAT).messages[0].content == "hi"
    assert parse(CompletionRequest, COMPLETION).prompts == ["hi"]


@pytest.mark.parametrize("body", [None, 1, "text", [], [CHAT]])
def test_a_body_that_is_no_object_is_refused(body: JsonValue) -> None:
    assert "JSON object" in str(refusal(ChatRequest, body))


def test_an_unknown_field_is_named() -> None:
    error = refusal(ChatRequest, CHAT | {"foo": 1})
    assert str(error) == "Unsupported parameter(s): `foo`"
    assert error.details["param"] == "foo"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", "m" * 257),
        ("model", None),
        ("max_tokens", 0),
        ("max_tokens", 2**63),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("n", 0),
        ("n", 10**6),
        ("stop", ["x"] * 100_000),
        ("stop", [""]),
        ("stop", "x" * 5000),
        ("seed", 2**63),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("top_k", -2),
        ("min_p", 1.5),
        ("min_tokens", -1),
        ("repetition_penalty", 0),
        ("ignore_eos", 1),
        ("stream", "yes"),
        ("user", "x" * 5000),
        ("metadata", {"a": 1}),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_fields_name(field: str, value: JsonValue) -> None:
    for kind, body in ((ChatRequest, CHAT), (CompletionRequest, COMPLETION)):
        error = refusal(kind, body | {field: value})
        assert str(error.details["param"]).split(".")[0].split("[")[0] == field
        assert field in str(error)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (CHAT | {"messages": []}, "messages"),
        (CHAT | {"messages": "hi"}, "messages"),
        (CHAT | {"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        (CHAT | {"messages": [{"content": "hi"}]}, "messages[0].role"),
        (CHAT | {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (CHAT | {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
        (CHAT | {"top_logprobs": 1}, "top_logprobs"),
        (CHAT | {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT | {"stream": True, "stream_options": {"foo": True}}, "stream_options.foo"),
        (CHAT | {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        (CHAT | {"max_tokens": 1, "min_tokens": 2}, "min_tokens"),
    ],
)
def test_a_nested_or_contradictory_field_is_named_with_its_path(body: JsonValue, param: str) -> None:
    assert refusal(ChatRequest, body).details["param"] == param


def test_a_missing_prompt_is_named() -> None:
    assert refusal(CompletionRequest, {"model": "m"}).details["param"] == "prompt"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_every_form_of_prompt_is_understood(prompt: JsonValue, prompts: list[str | list[int]]) -> None:
    assert parse(CompletionRequest, COMPLETION | {"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], ["a"] * 1000, [-1], [2**32], {}, None, 5, [[1], "a"]])
def test_a_prompt_of_no_known_form_is_refused(prompt: JsonValue) -> None:
    assert str(refusal(CompletionRequest, COMPLETION | {"prompt": prompt}).details["param"]).startswith("prompt")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("guided_json", {}),
        ("reasoning_effort", "high"),
        ("modalities", ["audio"]),
        ("store", True),
        ("service_tier", "flex"),
        ("chat_template", "{{ messages }}"),
        ("prompt_logprobs", 1),
    ],
)
def test_a_field_that_is_not_served_yet_is_refused_and_not_ignored(field: str, value: JsonValue) -> None:
    error = refusal(ChatRequest, CHAT | {field: value})
    assert "not served yet" in str(error)
    assert error.details["param"] == field


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tool_choice": "none", "tools": None, "logit_bias": {}},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"logprobs": True, "top_logprobs": 0},
        {"nvext": {}},
        {"nvext": {"annotations": [], "router": {}, "use_raw_prompt": False, "agent_hints": {"osl": None}}},
        {"nvext": {"backend_instance_id": 2**64 - 1, "dp_rank": 0, "explain": True}},
        {"nvext": {"cache_salt": "tenant"}},
        {"cache_salt": "tenant"},
        {"nvext": {"agent_hints": {"priority": -5, "strict_priority": 2}}},
        {"nvext": {"routing_constraints": {"required_taints": ["a"], "preferred_taints": {"b": -1.5}}}},
        {"nvext": {"router_config_override": {"router_temperature": 0.5, "assume_kv_reuse": False}}},
        {"n": 2, "stop": ["a", "b"], "seed": 0, "top_k": -1, "min_p": 0.5, "ignore_eos": True},
    ],
)
def test_fields_that_ask_for_nothing_or_for_what_is_served_pass(fields: dict[str, JsonValue]) -> None:
    refuse_unserved(parse(ChatRequest, CHAT | fields))


@pytest.mark.parametrize(
    ("nvext", "field"),
    [
        ({"annotations": ["token_ids"]}, "annotations"),
        ({"extra_fields": ["timing"]}, "extra_fields"),
        ({"token_data": [1, 2]}, "token_data"),
        ({"prefill_worker_id": 1}, "prefill_worker_id"),
        ({"router": {"ttft_target": 1}}, "router"),
        ({"agent_hints": {"osl": 100}}, "agent_hints.osl"),
    ],
)
def test_what_nvext_asks_for_is_refused_too_if_it_is_not_served_yet(nvext: JsonValue, field: str) -> None:
    error = refusal(ChatRequest, CHAT | {"nvext": nvext})
    assert str(error).startswith(f"'nvext.{field}' is not served yet: leave it out")
    assert error.details["param"] == f"nvext.{field}"


@pytest.mark.parametrize(
    "salt", ["", "x" * (CACHE_SALT_CHARS_MAX + 1), "a@b", "a/b", "a\\b", "a\0b", "\ud800", 1, ["a"]]
)
@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_a_salt_that_vllm_would_refuse_is_refused(kind: type[OpenAIRequest], salt: JsonValue) -> None:
    body = CHAT if kind is ChatRequest else COMPLETION
    assert refusal(kind, body | {"cache_salt": salt}).details["param"] == "cache_salt"
    assert refusal(kind, body | {"nvext": {"cache_salt": salt}}).details["param"] == "nvext.cache_salt"


def test_a_salt_may_be_said_in_two_places_if_it_is_the_same() -> None:
    longest = "x" * CACHE_SALT_CHARS_MAX
    assert parse(ChatRequest, CHAT | {"cache_salt": longest}).salt == longest
    assert parse(ChatRequest, CHAT | {"nvext": {"cache_salt": longest}}).salt == longest
    assert parse(ChatRequest, CHAT | {"cache_salt": "a", "nvext": {"cache_salt": "a"}}).salt == "a"
    assert parse(ChatRequest, CHAT | {"cache_salt": None, "nvext": {}}).salt is None
    assert parse(ChatRequest, CHAT | {"nvext": {"cache_salt": "a"}}).body()["cache_salt"] == "a"
    assert "cache_salt" not in parse(ChatRequest, CHAT | {"nvext": {}}).body()
    error = refusal(ChatRequest, CHAT | {"cache_salt": "a", "nvext": {"cache_salt": "b"}})
    assert str(error) == "'cache_salt' and 'nvext.cache_salt' differ: send one of them"


@pytest.mark.parametrize(
    ("nvext", "field"),
    [
        ({"anything": 1}, "nvext.anything"),
        ({"backend_instance_id": "one"}, "nvext.backend_instance_id"),
        ({"backend_instance_id": -1}, "nvext.backend_instance_id"),
        ({"dp_rank": True}, "nvext.dp_rank"),
        ({"cache_salt": ""}, "nvext.cache_salt"),
        ({"cache_salt": 1}, "nvext.cache_salt"),
        ({"dp_rank": 1024}, "nvext.dp_rank"),
        ({"explain": 1}, "nvext.explain"),
        ({"agent_hints": {"priority": 0.5}}, "nvext.agent_hints.priority"),
        ({"agent_hints": {"urgency": 1}}, "nvext.agent_hints.urgency"),
        ({"routing_constraints": {"required_taints": "a"}}, "nvext.routing_constraints.required_taints"),
        ({"routing_constraints": {"required_taints": [""]}}, "nvext.routing_constraints.required_taints[0]"),
        ({"routing_constraints": {"preferred_taints": {"a": "b"}}}, "nvext.routing_constraints.preferred_taints.a"),
        ({"router_config_override": {"router_temperature": -1}}, "nvext.router_config_override.router_temperature"),
        ({"router_config_override": {"prefill_load_scale": 1e308}}, "nvext.router_config_override.prefill_load_scale"),
        ([], "nvext"),
    ],
)
def test_what_nvext_says_wrong_is_refused_by_its_path(nvext: JsonValue, field: str) -> None:
    assert refusal(ChatRequest, CHAT | {"nvext": nvext}).details["param"] == field


def test_alternatives_to_the_chosen_token_are_refused() -> None:
    assert refusal(ChatRequest, CHAT | {"logprobs": True, "top_logprobs": 3}).details["param"] == "top_logprobs"
    assert refusal(CompletionRequest, COMPLETION | {"logprobs": 1}).details["param"] == "logprobs"


def test_further_fields_of_a_message_are_kept_for_the_template() -> None:
    message: JsonValue = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [{"id": "1"}]}
    request = parse(ChatRequest, CHAT | {"messages": [message]})
    assert request.messages[0].model_dump(exclude_unset=True) == message


def test_the_body_is_what_was_sent() -> None:
    body = CHAT | {"temperature": 0.5, "tools": [{"type": "function"}], "stream": False}
    assert parse(ChatRequest, body).body() == body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted(ChatRequest.model_fields)), value=json_values)
def test_whatever_stands_in_a_field_is_taken_or_refused_in_words(name: str, value: JsonValue) -> None:
    with contextlib.suppress(InvalidArgument):
        refuse_unserved(parse(ChatRequest, CHAT | {name: value}))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user"}, "'messages[0]': a message of the role 'user' needs 'content'"),
        ({"role": "user", "content": None}, "'messages[0]': a message of the role 'user' needs 'content'"),
        ({"role": "tool", "content": None}, "'messages[0]': a message of the role 'tool' needs 'content'"),
        ({"role": "assistant"}, "'messages[0]': a message of the role 'assistant' needs 'content'"),
        ({"role": "user", "content": []}, "'messages[0].content': List should have at least 1 item"),
        ({"role": "user", "content": 1}, "'messages[0].content': Input should be a text or a list of parts"),
        ({"role": "user", "content": ["x"]}, "'messages[0].content[0]': Input should be an object"),
        ({"role": "assistant", "tool_calls": "x"}, "'messages[0].tool_calls': Input should be a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "'messages[0].tool_calls[0].function.name': Field"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]},
            "'messages[0].tool_calls[0].function.arguments': Input should be a text or an object",
        ),
    ],
)
def test_a_message_that_would_be_missing_from_the_prompt_is_refused(message: JsonValue, words: str) -> None:
    assert str(refusal(ChatRequest, CHAT | {"messages": [message]})).startswith(words)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": ""},
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": ""}}]},
        {"refusal": "no"},
    ],
)
def test_an_assistant_may_say_nothing_if_it_does_something(fields: dict[str, JsonValue]) -> None:
    message: JsonValue = {"role": "assistant", **fields}
    assert parse(ChatRequest, CHAT | {"messages": [message]}).body()["messages"] == [message]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("stop", 1, "'stop': Input should be a text or a list of texts"),
        ("stop", ["x"] * 17, "'stop': List should have at most 16 items"),
        ("prompt", None, "'prompt': Input should be a text, a list of texts, a list of token ids"),
        ("prompt", [], "'prompt': List should have at least 1 item"),
        ("prompt", ["x"] * 129, "'prompt': List should have at most 128 items"),
        ("prompt", ["x", 1], "'prompt[1]': Input should be a valid string"),
        ("prompt", [1, "x"], "'prompt[1]': Input should be a valid integer"),
        ("prompt", [[1], [-1]], "'prompt[1][0]': Input should be greater than or equal to 0"),
        ("best_of", True, "'best_of' is not served yet: leave it out, or send 1"),
        ("echo", 0, "'echo' is not served yet: leave it out, or send false"),
    ],
)
def test_a_refusal_is_about_what_was_sent_and_says_what_would_be_right(
    field: str, value: JsonValue, words: str
) -> None:
    assert str(refusal(CompletionRequest, COMPLETION | {field: value})).startswith(words)
