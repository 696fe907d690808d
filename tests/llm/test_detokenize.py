"""Token ids to text in pieces: the same text as at once, cut exactly at the first stop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_model import tiny_model_path
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from dynamo._core.errors import ProtocolError
from dynamo.llm._detokenize import Detokenizer
from dynamo.llm._limits import HELD_TOKENS_MAX
from dynamo.llm._messages import PreprocessedRequest, StopConditions
from dynamo.llm._stop_strings import StopStrings
from dynamo.llm._tokenizer import Tokenizer

BOS, EOS, EOT = 0, 1, 3


@functools.cache
def byte_level() -> Tokenizer:
    """The tiny model's tokenizer, with added tokens that are awkward: not special, and outside of its alphabet."""
    backend = tokenizers.Tokenizer.from_file(str(tiny_model_path() / "tokenizer.json"))
    backend.add_tokens(["<tool_call>", "né 中", AddedToken("<think>", special=False)])
    backend.add_special_tokens(["<|né|>"])
    return Tokenizer(backend)


@functools.cache
def sentence_piece() -> Tokenizer:
    """A tokenizer like Llama 2's: spaces are `▁`, unknown characters are bytes, the first space is dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁hello", "▁world", "hello", "wor", "ld", "▁a", *"abcdefghijklmnopqrstuvwxyz.,!?"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend)


def metaspace() -> Tokenizer:
    """A tokenizer whose decoder is a plain Metaspace."""
    words = ["▁hello", "▁world", "▁", "hello", "ing", "."]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="."))
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend)


@st.composite
def cut(draw: st.DrawFn, items: st.SearchStrategy[list[int]]) -> list[list[int]]:
    """A list in pieces, some of them empty."""
    whole = draw(items)
    ends = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *ends], [*ends, len(whole)], strict=True)]


def joined(pieces: Sequence[Sequence[int]]) -> list[int]:
    return [token_id for piece in pieces for token_id in piece]


def pushed(detokenizer: Detokenizer, pieces: Sequence[Sequence[int]]) -> str:
    return "".join([*(detokenizer.push(piece) for piece in pieces), detokenizer.finish()])


# The tiny model's 2048 tokens, those added above, and some that do not exist; its single bytes are 8 to 263.
byte_ids = st.lists(st.integers(0, 2060), max_size=40)
mostly_broken = st.lists(st.one_of(st.integers(8, 263), st.integers(0, 2060)), max_size=40)


# Any cutting gives the text of decoding at once.


@given(cut(st.one_of(byte_ids, mostly_broken)), st.booleans())
def test_any_tokens_in_any_pieces_give_the_text_of_all_at_once(pieces: list[list[int]], skip: bool) -> None:
    whole = byte_level().decode(joined(pieces), skip_special_tokens=skip)
    assert pushed(Detokenizer(byte_level(), [5, 6], skip_special_tokens=skip), pieces) == whole


@given(st.text())
def test_any_text_comes_back_token_by_token(text: str) -> None:
    ids = byte_level().encode_now(text, add_special_tokens=False)
    assert pushed(Detokenizer(byte_level()), [[token_id] for token_id in ids]) == text


@given(st.text(st.sampled_from("ab .中🙂é"), min_size=1), st.text(st.sampled_from("ab .中🙂é")), st.data())
def test_text_of_a_sentence_piece_tokenizer_continues_its_prompt(prompt: str, text: str, data: st.DataObject) -> None:
    tokenizer = sentence_piece()
    prompt_ids = tokenizer.encode_now(prompt, add_special_tokens=False)
    ids = tokenizer.encode_now("x" + text, add_special_tokens=False)[2:]  # without "▁x"
    whole = tokenizer.decode(prompt_ids + ids)[len(tokenizer.decode(prompt_ids)) :]
    assert pushed(Detokenizer(tokenizer, prompt_ids), data.draw(cut(st.just(ids)))) == whole


@given(cut(st.lists(st.integers(0, 295), max_size=60)))
def test_broken_bytes_of_a_sentence_piece_tokenizer_give_the_same_text_in_any_pieces(pieces: list[list[int]]) -> None:
    tokenizer = sentence_piece()
    one_by_one = [[token_id] for token_id in joined(pieces)]
    assert pushed(Detokenizer(tokenizer), pieces) == pushed(Detokenizer(tokenizer), one_by_one)


def test_the_first_word_after_a_prompt_keeps_its_space() -> None:
    tokenizer = metaspace()
    assert pushed(Detokenizer(tokenizer, [0]), [[1], [4]]) == " worlding"
    assert pushed(Detokenizer(tokenizer), [[1], [4]]) == "worlding"


def test_a_prompt_that_ends_with_special_tokens_is_looked_at_further_back() -> None:
    tokenizer = sentence_piece()
    hello, world, end = 260, 261, 2
    assert pushed(Detokenizer(tokenizer, [hello, *[end] * 9]), [[world]]) == " world"
    assert pushed(Detokenizer(tokenizer, [end] * 9), [[world]]) == "world"


def test_an_unfinished_character_is_held_back_and_ends_as_a_replacement() -> None:
    first, *rest = byte_level().encode_now("🙂", add_special_tokens=False)
    assert rest, "the tiny model has a token for this character; take another"
    detokenizer = Detokenizer(byte_level())
    assert detokenizer.push([first]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_a_prompt_that_ends_within_a_character_is_not_repeated() -> None:
    broken, hello = 3 + 0xE4, 260
    assert pushed(Detokenizer(sentence_piece(), [broken]), [[hello]]) == "hello"


def test_endless_broken_text_is_not_held_back_for_ever() -> None:
    detokenizer = Detokenizer(sentence_piece(), [260])
    shown = [detokenizer.push([3 + 0xFF]) for _ in range(3 * HELD_TOKENS_MAX)]
    assert "".join(shown) == "\ufffd" * 3 * HELD_TOKENS_MAX
    assert detokenizer.push([261]) == " world"


def test_a_broken_byte_after_whole_characters_spoils_only_itself() -> None:
    characters = [3 + byte for byte in "中".encode()]
    assert (
        pushed(Detokenizer(sentence_piece(), [260]), [characters, [3 + 0xFF], [261], [3 + 0xFF]])
        == "中\ufffd world\ufffd"
    )


def test_token_ids_that_the_tokenizer_does_not_have_are_no_text() -> None:
    assert pushed(Detokenizer(byte_level()), [[99_999_999], [2**32 - 1]]) == ""


@pytest.mark.parametrize("token_id", [-1, 2**32])
@pytest.mark.parametrize("tokenizer", [byte_level, sentence_piece])
def test_what_is_no_token_id_is_the_workers_fault(tokenizer: Callable[[], Tokenizer], token_id: int) -> None:
    with pytest.raises(ProtocolError, match=f"the worker sent {token_id}, which is no token id"):
        Detokenizer(tokenizer()).push([token_id])


# Stop strings.

letters = st.text("ab", max_size=30)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=3)


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The definition: the stop string that is complete first ends the text; the longest, if several are."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def pieces_of(text: str, ends: list[int]) -> Iterator[str]:
    ends = sorted(min(end, len(text)) for end in ends)
    return (text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True))


def run(stops: StopStrings, pieces: Iterator[str]) -> str:
    shown = ""
    for piece in pieces:
        shown += stops.push(piece)
        if stops.matched is not None:
            return shown
    return shown + stops.finish()


@given(letters, stop_lists, st.lists(st.integers(0, 30), max_size=10))
def test_the_first_stop_string_cuts_exactly_however_the_text_is_split(
    text: str, stops: list[str], ends: list[int]
) -> None:
    detector = StopStrings(stops)
    shown = run(detector, pieces_of(text, ends))
    assert (shown, detector.matched) == cut_at_stop(text, stops)


@given(letters, st.text("xy", min_size=1, max_size=8), letters, st.lists(st.integers(0, 60), max_size=10))
def test_a_stop_string_is_found_at_any_place(before: str, stop: str, after: str, ends: list[int]) -> None:
    detector = StopStrings([stop])
    assert run(detector, pieces_of(before + stop + after, ends)) == before
    assert detector.matched == stop


@given(letters, stop_lists)
def test_no_text_waits_longer_than_a_stop_string_could_be(text: str, stops: list[str]) -> None:
    detector = StopStrings(stops)
    shown = ""
    for count, char in enumerate(text, 1):
        shown += detector.push(char)
        if detector.matched is not None:
            return
        assert text.startswith(shown)
        held = text[len(shown) : count]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_may_be_shown() -> None:
    detector = StopStrings(["END"], include_stop=True)
    assert run(detector, iter(["a E", "N", "D b"])) == "a END"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings([""])


@given(cut(byte_ids), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=2))
def test_stop_strings_cut_the_text_of_any_tokens(pieces: list[list[int]], stops: list[str]) -> None:
    detokenizer = Detokenizer(byte_level(), stop=stops)
    whole = byte_level().decode(joined(pieces))
    expected, reason = cut_at_stop(whole, stops)
    assert pushed(detokenizer, pieces) == expected
    assert detokenizer.stop_reason == reason


def test_it_is_known_which_token_completed_the_stop_string() -> None:
    ids = byte_level().encode_now("one two STOP three", add_special_tokens=False)
    detokenizer = Detokenizer(byte_level(), stop=["STOP"])
    assert detokenizer.push(ids) == "one two "
    assert detokenizer.stopped
    assert detokenizer.num_tokens < len(ids)
    assert byte_level().decode(ids[: detokenizer.num_tokens]).endswith("STOP")
    assert detokenizer.push(ids) == ""
    assert detokenizer.finish() == ""


# Stop tokens and min_tokens.


def tokens_of(text: str) -> list[int]:
    return byte_level().encode_now(text, add_special_tokens=False)


def test_a_stop_token_ends_the_text_and_is_not_shown() -> None:
    hello, comma = tokens_of("hello"), tokens_of(",")
    detokenizer = Detokenizer(byte_level(), stop_token_ids=comma)
    assert detokenizer.push([*hello, *comma, *hello]) == "hello"
    assert detokenizer.stop_reason == comma[0]
    assert detokenizer.num_tokens == len(hello) + 1
    assert pushed(detokenizer, [hello]) == ""


def test_a_stop_token_releases_what_a_stop_string_held_back() -> None:
    detokenizer = Detokenizer(byte_level(), stop=["hello world"], stop_token_ids=[EOS])
    assert detokenizer.push(tokens_of("hello wor")) == ""
    assert detokenizer.push([EOS]) == "hello wor"
    assert detokenizer.stop_reason == EOS


def test_special_tokens_are_shown_only_on_demand() -> None:
    assert pushed(Detokenizer(byte_level()), [[EOT]]) == ""
    assert pushed(Detokenizer(byte_level(), skip_special_tokens=False), [[EOT]]) == "<|eot|>"


@given(letters, stop_lists, st.integers(0, 30), st.lists(st.integers(0, 30), max_size=6))
def test_a_stop_string_counts_only_when_completed_after_min_tokens(
    text: str, stops: list[str], min_tokens: int, ends: list[int]
) -> None:
    ids = [tokens_of(char)[0] for char in text]
    ends = sorted(min(end, len(ids)) for end in ends)
    pieces = [ids[a:b] for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]
    late = [stop for end in range(min_tokens + 1, len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    detokenizer = Detokenizer(byte_level(), stop=stops, min_tokens=min_tokens)
    shown = pushed(detokenizer, pieces)
    assert text.startswith(shown)
    assert detokenizer.stopped == bool(late)
    if detokenizer.stopped:
        assert text[len(shown) : detokenizer.num_tokens] == detokenizer.stop_reason
        assert detokenizer.num_tokens > min_tokens
    else:
        assert shown == text


def test_a_stop_token_counts_only_after_min_tokens() -> None:
    a = tokens_of("a")[0]
    detokenizer = Detokenizer(byte_level(), stop_token_ids=[a], min_tokens=3)
    assert detokenizer.push([a, a, a, a, a]) == "aaa"
    assert (detokenizer.stop_reason, detokenizer.num_tokens) == (a, 4)


def test_a_request_says_how_its_tokens_are_decoded() -> None:
    request = PreprocessedRequest(
        "m", tokens_of("hi"), StopConditions(stop=["."], stop_token_ids=[8]), eos_token_ids=[EOT]
    )
    assert Detokenizer.for_request(byte_level(), request).push([EOT, *tokens_of("hello")]) == ""
    assert Detokenizer.for_request(byte_level(), request).push(tokens_of("hello. there")) == "hello"
    request.stop_conditions.ignore_eos = True
    assert Detokenizer.for_request(byte_level(), request).push([EOT, *tokens_of("hello")]) == "hello"
