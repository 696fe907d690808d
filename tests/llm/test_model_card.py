"""The model card: read from a directory, sent through discovery, and clear about what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamo._core.errors import ConfigError, InvalidArgument, NotFound, ProtocolError
from dynamo.llm import _model_files
from dynamo.llm._model_card import ModelCard, ModelInput, ModelType
from dynamo.llm._tokenizer import Tokenizer

Edit = Callable[[str, dict[str, object] | str | bytes | None], Path]


@pytest.fixture
def edited(tiny_model: Path, tmp_path: Path) -> Edit:
    """Returns a function that copies the tiny model and merges into, replaces or deletes one of its files."""
    copy = tmp_path / "edited"
    shutil.copytree(tiny_model, copy)

    def edit(name: str, change: dict[str, object] | str | bytes | None) -> Path:
        file = copy / name
        if change is None:
            file.unlink()
        elif isinstance(change, dict):
            file.write_text(json.dumps(json.loads(file.read_text()) | change))
        else:
            file.write_bytes(change.encode() if isinstance(change, str) else change)
        return copy

    return edit


def test_a_card_says_what_the_model_directory_says(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model)
    assert card.display_name == "tiny-model"
    assert card.source_path == str(tiny_model)
    assert card.context_length == 4096
    assert card.eos_token_ids == [3, 1]
    assert card.special_tokens == {"bos_token": "<|bos|>", "eos_token": "<|eot|>", "pad_token": "<|pad|>"}
    assert card.model_type == ModelType.Chat | ModelType.Completions
    assert card.model_input is ModelInput.Tokens
    assert card.chat_template == (tiny_model / "chat_template.jinja").read_text()
    assert set(card.checksums) == {"config.json", "tokenizer.json", "chat_template"}
    assert card.tokenizer_path.is_file()


def test_a_card_survives_discovery(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model, name="org/Model-1.5", runtime_config={"total_kv_blocks": 100})
    assert card.slug == "org_model-1_5"
    assert ModelCard.from_json(card.to_json()) == card


def test_what_a_newer_peer_adds_to_a_card_is_ignored(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model)
    newer = json.loads(card.to_json()) | {"mood": "sunny", "model_type": "chat,completions,telepathy"}
    assert ModelCard.from_json(json.dumps(newer).encode()) == card


def test_todays_dynamo_spelling_of_model_types_is_understood(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model)
    other = json.loads(card.to_json()) | {"model_type": "Chat | Completions"}
    assert ModelCard.from_json(json.dumps(other).encode()) == card


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"display_name": 3}', b"[" * 100_000])
def test_what_is_no_card_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a model card"):
        ModelCard.from_json(data)


def test_model_types_have_a_text_form() -> None:
    assert str(ModelType.Chat | ModelType.Completions) == "chat,completions"
    assert ModelType.parse("Completions, CHAT") == ModelType.Chat | ModelType.Completions
    assert ModelType.parse("tensorbased") == ModelType.TensorBased
    assert str(ModelType(0)) == ""


def test_an_unknown_model_type_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="'chatt'; known are chat, completions, embedding"):
        ModelType.parse("chatt")


def test_workers_agree_on_the_sum_of_the_same_model_and_not_of_another(tiny_model: Path, edited: Edit) -> None:
    card = ModelCard.from_local_path(tiny_model, name="m")
    copy = edited("chat_template.jinja", "{{ messages[0].content }}")
    assert card.mdc_sum == ModelCard.from_json(card.to_json()).mdc_sum
    assert card.mdc_sum == ModelCard.from_local_path(tiny_model, name="m", runtime_config={"x": 1}).mdc_sum
    assert card.mdc_sum != ModelCard.from_local_path(copy, name="m").mdc_sum
    assert card.mdc_sum != ModelCard.from_local_path(tiny_model, name="m", kv_cache_block_size=32).mdc_sum


# Context length.


def test_the_context_may_be_made_shorter_but_not_longer_than_the_model_has(tiny_model: Path) -> None:
    assert ModelCard.from_local_path(tiny_model, context_length=100).context_length == 100
    for length in (0, -1, 4097):
        with pytest.raises(ConfigError, match=f"context_length is {length}; .* supports 1 to 4096"):
            ModelCard.from_local_path(tiny_model, context_length=length)


@pytest.mark.parametrize(("tokenizer_says", "context"), [(1024, 1024), (10**30, 4096), (1e30, 4096), (8192, 4096)])
def test_a_sane_limit_of_the_tokenizer_counts(edited: Edit, tokenizer_says: float, context: int) -> None:
    path = edited("tokenizer_config.json", {"model_max_length": tokenizer_says})
    assert ModelCard.from_local_path(path).context_length == context


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"type": "linear", "factor": 2}, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
    ],
)
def test_stretched_positions_count(edited: Edit, scaling: dict[str, object], longest: int) -> None:
    path = edited("config.json", {"rope_scaling": scaling})
    assert ModelCard.from_local_path(path, context_length=longest).context_length == longest
    with pytest.raises(ConfigError, match="context_length"):
        ModelCard.from_local_path(path, context_length=longest + 1)


def test_a_model_that_does_not_tell_its_context_asks_for_it(edited: Edit) -> None:
    edited("config.json", '{"eos_token_id": 3}')
    path = edited("tokenizer_config.json", {"model_max_length": 10**30})
    with pytest.raises(ConfigError, match="give context_length"):
        ModelCard.from_local_path(path)
    assert ModelCard.from_local_path(path, context_length=77).context_length == 77


# End of sequence and sampling.


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 5}, {"eos_token_id": 9}, [5, 3]),
        ({"eos_token_id": [6, 5]}, {}, [6, 5, 3]),
        ({}, {"eos_token_id": [7, 3]}, [7, 3]),
        ({}, {"eos_token_id": None}, [3]),
    ],
)
def test_every_way_to_name_the_end_of_a_sequence_counts(
    edited: Edit, generation: dict[str, object], config: dict[str, object], expected: list[int]
) -> None:
    edited("generation_config.json", json.dumps(generation))
    assert ModelCard.from_local_path(edited("config.json", config)).eos_token_ids == expected


def test_sampling_defaults_count_where_the_model_asks_to_sample(edited: Edit) -> None:
    recommended: dict[str, object] = {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    sampling = ModelCard.from_local_path(edited("generation_config.json", recommended | {"do_sample": True}))
    greedy = ModelCard.from_local_path(edited("generation_config.json", recommended | {"do_sample": False}))
    assert (sampling.sampling_defaults.temperature, sampling.sampling_defaults.top_p) == (0.6, 0.9)
    assert sampling.sampling_defaults.top_k == 20
    assert greedy.sampling_defaults.temperature is None


# Chat templates.


def test_a_template_of_the_tokenizer_config_is_found(edited: Edit) -> None:
    edited("chat_template.jinja", None)
    assert ModelCard.from_local_path(edited("tokenizer_config.json", {"chat_template": "T"})).chat_template == "T"


def test_named_templates_are_found(edited: Edit) -> None:
    edited("chat_template.jinja", None)
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}]
    card = ModelCard.from_local_path(edited("tokenizer_config.json", {"chat_template": named}))
    assert card.chat_templates == {"default": "D", "tool_use": "U"}


def test_a_model_without_template_has_none(edited: Edit) -> None:
    edited("chat_template.jinja", None)
    assert ModelCard.from_local_path(edited("tokenizer_config.json", {"chat_template": None})).chat_template is None


def test_a_custom_template_wins(tiny_model: Path, tmp_path: Path) -> None:
    custom = tmp_path / "mine.jinja"
    custom.write_text("mine")
    assert ModelCard.from_local_path(tiny_model, custom_template_path=custom).chat_templates == {"default": "mine"}
    with pytest.raises(NotFound, match=r"other\.jinja does not exist"):
        ModelCard.from_local_path(tiny_model, custom_template_path=tmp_path / "other.jinja")


def test_special_tokens_of_older_directories_are_found(edited: Edit) -> None:
    edited("special_tokens_map.json", json.dumps({"unk_token": {"content": "<unk>", "lstrip": False}}))
    path = edited("tokenizer_config.json", {"bos_token": {"content": "<|bos|>"}, "pad_token": None})
    tokens = {"bos_token": "<|bos|>", "eos_token": "<|eot|>", "unk_token": "<unk>"}
    assert ModelCard.from_local_path(path).special_tokens == tokens


# What is wrong is said clearly.


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere does not exist; give the folder that holds config\.json"):
        ModelCard.from_local_path(tmp_path / "nowhere")


def test_a_file_is_no_directory(tiny_model: Path) -> None:
    with pytest.raises(NotFound, match="is a file, not a directory"):
        ModelCard.from_local_path(tiny_model / "config.json")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", None, r"is not a model directory: it has no config\.json"),
        ("tokenizer.json", None, r"has no tokenizer\.json: only fast tokenizers"),
        ("config.json", '{\n"a": 1,\n"b": }', r"config\.json is not valid JSON: .*line 3"),
        ("config.json", b'{"a": "\xff"}', r"config\.json is not valid JSON: .*line 1"),
        ("config.json", "[]", r"config\.json: Expected `object`, got `array`"),
        ("config.json", {"eos_token_id": "three"}, None),
        ("tokenizer.json", '{"added_tokens": 1}', r"tokenizer\.json: Expected `array`"),
        ("generation_config.json", '{"top_k": "x"}', r"generation_config\.json: .*top_k"),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja is not UTF-8 text"),
        ("config.json", '{"a":' + "[" * 10_000, r"config\.json is not valid JSON"),
    ],
)
def test_a_broken_file_is_named(
    edited: Edit, name: str, change: dict[str, object] | str | bytes | None, message: str | None
) -> None:
    if message is None:  # the fallback of a file that is not there
        edited("generation_config.json", None)
        message = r"config\.json: eos_token_id or rope_scaling: Expected"
    path = edited(name, change)
    with pytest.raises(ConfigError, match=message):
        ModelCard.from_local_path(path)


def test_a_template_of_a_wrong_type_is_named(edited: Edit) -> None:
    edited("chat_template.jinja", None)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: chat_template: Expected"):
        ModelCard.from_local_path(edited("tokenizer_config.json", {"chat_template": 1}))


def test_a_file_over_its_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"x" * 11)
    assert _model_files.read_limited(file, 11) == b"x" * 11
    with pytest.raises(ConfigError, match="is larger than the limit of 10 bytes"):
        _model_files.read_limited(file, 10)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 300])
def test_a_name_that_cannot_be_an_address_is_refused(tiny_model: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid model name"):
        ModelCard.from_local_path(tiny_model, name=name)


def test_settings_out_of_range_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="kv_cache_block_size is 0; it must be at least 1"):
        ModelCard.from_local_path(tiny_model, kv_cache_block_size=0)
    with pytest.raises(ConfigError, match="migration_limit is -1"):
        ModelCard.from_local_path(tiny_model, migration_limit=-1)


def test_a_tokenizer_that_changed_since_the_card_was_made_is_refused(edited: Edit) -> None:
    card = ModelCard.from_local_path(edited("config.json", {}))
    Tokenizer.for_card(card).close()
    edited("tokenizer.json", {"version": "1.0", "truncation": {}})
    with pytest.raises(ConfigError, match="its checksum differs"):
        Tokenizer.for_card(card)


def test_a_tokenizer_that_is_not_here_names_the_path(edited: Edit) -> None:
    card = ModelCard.from_local_path(edited("config.json", {}))
    edited("tokenizer.json", None)
    with pytest.raises(ConfigError, match="must have the same path here as at the worker"):
        Tokenizer.for_card(card)


def test_a_tokenizer_that_the_library_cannot_read_is_a_clear_error(edited: Edit) -> None:
    card = ModelCard.from_local_path(edited("tokenizer.json", "{}"))
    with pytest.raises(ConfigError, match="is not a tokenizer that can be read"):
        Tokenizer.for_card(card)
