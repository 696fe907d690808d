"""Finding a model: in a directory, or on a hub, whose files come whole or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.llm.hub import Hub, running_hub, safetensors

from dynamo._core.errors import ConfigError, NotFound
from dynamo.llm import fetch_llm
from dynamo.llm._fetch import default_model_name

DEADLINE_S = 60.0
MIB = 1 << 20
NAME = "acme/tiny"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"added_tokens": []}',
    "model.safetensors": safetensors(MIB),
    "modeling.py": b"print('never fetched')",
    "pytorch_model.bin": b"never fetched",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests' environment says otherwise
        yield hub


async def fetched(cache: Path, name: str = NAME, **options: object) -> Path:
    async with asyncio.timeout(DEADLINE_S):
        return await fetch_llm(name, cache_dir=cache, **options)  # type: ignore[arg-type]


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def names_below(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*")}


async def test_a_directory_is_returned_as_it_is(tmp_path: Path) -> None:
    assert await fetch_llm(str(tmp_path)) == tmp_path


async def test_a_model_of_the_hub_is_downloaded_without_code_and_without_pickles(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    directory = await fetched(tmp_path)
    assert names_in(directory) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]


async def test_weights_may_be_left_out(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    assert names_in(await fetched(tmp_path, ignore_weights=True)) == {"config.json", "tokenizer.json"}


async def test_what_is_here_is_not_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    first = await fetched(tmp_path)
    hub.requests.clear()
    assert await fetched(tmp_path) == first
    assert not [one for one in hub.requests if "/resolve/" in one and one.startswith("GET")]


@pytest.mark.parametrize("how", ["argument", "name"])
async def test_a_revision_pins_what_is_fetched(hub: Hub, tmp_path: Path, how: str) -> None:
    old = hub.add(NAME, {**FILES, "config.json": b'{"old": 1}'}, "v1")
    hub.add(NAME, FILES)
    for revision in ("v1", old):
        name, options = (f"{NAME}@{revision}", {}) if how == "name" else (NAME, {"revision": revision})
        directory = await fetched(tmp_path, name, **options)
        assert (directory / "config.json").read_bytes() == b'{"old": 1}'
        assert directory.name == old
    assert (await fetched(tmp_path) / "config.json").read_bytes() == b"{}"


async def test_a_download_that_is_cut_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    weights = safetensors(12 * MIB)  # what has come is kept in pieces of 10 MiB
    hub.add(NAME, {**FILES, "model.safetensors": weights})
    hub.cuts["model.safetensors"] = 11 * MIB
    directory = await fetched(tmp_path)
    assert (directory / "model.safetensors").read_bytes() == weights
    first, second = hub.gets("model.safetensors")
    assert "bytes=" not in first
    assert second.endswith(f"bytes={10 * MIB}-")


@pytest.mark.parametrize("path", ["model.safetensors", "tokenizer.json"])
async def test_a_file_that_is_not_what_the_hub_says_is_refused_and_can_be_fetched_again(
    hub: Hub, tmp_path: Path, path: str
) -> None:
    hub.add(NAME, FILES)
    hub.lies[path] = FILES[path][:-1] + b"!"
    with pytest.raises(ConfigError, match=rf"{path} of '{NAME}' is not what the hub says it is: its .* is [0-9a-f]+"):
        await fetched(tmp_path)
    hub.lies.clear()
    assert (await fetched(tmp_path) / path).read_bytes() == FILES[path]


async def test_weights_whose_header_says_more_than_there_is_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {**FILES, "model.safetensors": FILES["model.safetensors"][:-7]})
    with pytest.raises(ConfigError, match=r"no whole safetensors file: it has \d+ bytes, and should have \d+"):
        await fetched(tmp_path)


async def test_a_missing_part_of_the_weights_is_named(hub: Hub, tmp_path: Path) -> None:
    index = b'{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
    hub.add(NAME, {**FILES, "model.safetensors.index.json": index})
    with pytest.raises(ConfigError, match=r"has not all of 'acme/tiny': model-2\.safetensors missing"):
        await fetched(tmp_path)


async def test_a_model_without_safe_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {"config.json": b"{}", "pytorch_model.bin": b"pickled"})
    with pytest.raises(ConfigError, match=r"has no weights of 'acme/tiny': only those that are saved as"):
        await fetched(tmp_path)


async def test_progress_is_told_on_the_loop_and_ends_with_everything(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    told: list[tuple[int, int]] = []
    threads: set[int] = set()

    def note(done_bytes: int, total_bytes: int) -> None:
        threads.add(threading.get_ident())
        told.append((done_bytes, total_bytes))

    await fetched(tmp_path, on_progress=note)
    await asyncio.sleep(0)
    size_bytes = sum(len(FILES[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))
    assert told[-1] == (size_bytes, size_bytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert threads == {threading.get_ident()}


async def test_who_gives_a_download_up_does_not_wait_for_its_end(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    hold = hub.holds["model.safetensors"] = threading.Event()
    task = asyncio.create_task(fetched(tmp_path))
    async with asyncio.timeout(DEADLINE_S):
        while not hub.gets("model.safetensors"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert "model.safetensors" not in names_below(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("acme/other", {}, "the hub has no such model"),
        (NAME, {"revision": "v9"}, "it has no revision 'v9'"),
        (f"{NAME}@v1", {"revision": "v2"}, "revision is 'v2', and the name says 'v1'"),
        (NAME, {"revision": "../x"}, "revision is '../x': give a branch, a tag or a commit"),
    ],
)
async def test_what_the_hub_does_not_have_is_named(
    hub: Hub, tmp_path: Path, name: str, options: dict[str, object], said: str
) -> None:
    hub.add(NAME, FILES)
    with pytest.raises(ConfigError, match=said):
        await fetched(tmp_path, name, **options)


async def test_where_it_cannot_be_kept_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    no_directory = tmp_path / "file"
    no_directory.touch()
    with pytest.raises(ConfigError, match=f"it cannot be kept in {no_directory} .*: .*; make room, or name another"):
        await fetched(no_directory)


async def test_a_directory_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only models on the hub have revisions"):
        await fetch_llm(str(tmp_path), revision="v1")


@pytest.mark.parametrize("name", ["", "no such folder", "a/b/c", "~nobody-of-this-name/x"])
async def test_what_is_neither_a_directory_nor_a_name_on_the_hub_is_not_found(name: str) -> None:
    with pytest.raises(NotFound, match="there is no model directory at"):
        await fetch_llm(name)


async def test_a_name_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="name=3 is of type int: give a directory, or owner/model"):
        await fetch_llm(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_dir": 5}, "cache_dir=5 is of type int: give a directory, or None"),
        ({"ignore_weights": "no"}, "ignore_weights='no' is of type str: give True or False"),
        ({"on_progress": 5}, "on_progress=5 is of type int: give a function of"),
    ],
)
async def test_wrong_arguments_are_named_before_anything_is_fetched(options: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError) as refused:
        await fetch_llm("acme/tiny", **options)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_the_revision_is_no_part_of_the_name_of_a_model() -> None:
    assert default_model_name("acme/tiny@v1") == default_model_name("acme/tiny") == "acme/tiny"


FETCH = """
import asyncio, sys
from dynamo.llm import fetch_llm
try:
    print(asyncio.run(fetch_llm("acme/tiny", cache_dir=sys.argv[1])))
except Exception as error:
    print(type(error).__name__, error)
"""


async def test_offline_the_cache_is_enough_and_what_is_not_in_it_is_said(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    full, part, none = tmp_path / "full", tmp_path / "part", tmp_path / "none"
    directory = await fetched(full)
    await fetched(part, ignore_weights=True)
    hub.requests.clear()
    said = [await asyncio.to_thread(fetch_offline, cache) for cache in (full, part, none)]
    assert said[0] == str(directory)
    assert "model.safetensors" in said[1]
    assert f"HF_HUB_OFFLINE is set, and '{NAME}' is not complete in {none}; fetch it once" in said[2]
    assert hub.requests == []


@pytest.fixture
def silent_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has answered until now, and takes questions without an answer from when it is told."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    yield hub
    hub.answers.set()


async def test_a_hub_that_never_answers_is_not_waited_for(silent_hub: Hub, tmp_path: Path) -> None:
    silent_hub.add(NAME, FILES)
    silent_hub.answers.clear()
    with pytest.raises(ConfigError, match=rf"not answered for 0\.3 s, and {tmp_path} has not all of '{NAME}'"):
        await fetched(tmp_path)


async def test_what_is_here_is_enough_if_the_hub_never_answers(silent_hub: Hub, tmp_path: Path) -> None:
    silent_hub.add(NAME, FILES)
    directory = await fetched(tmp_path)
    silent_hub.answers.clear()
    assert await fetched(tmp_path) == directory


def fetch_offline(cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(cache)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.stderr == ""
    return done.stdout.strip()
