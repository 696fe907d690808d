"""The reader of the documentation notices what is wrong with a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.reader import Reader


def page(*blocks: str) -> str:
    """A page of blocks, each with its language in the first line."""
    return "".join(f"```{block}\n```\n" for block in blocks)


FILE = "python\n# hello.py\nprint('hello')\nprint('port 8000')"


async def test_files_are_saved_and_commands_run(tmp_path: Path) -> None:
    await Reader(tmp_path).follow(page(FILE, "bash\npython hello.py\npython hello.py", "text\nhello\nport 8000"))


async def test_dots_stand_for_anything(tmp_path: Path) -> None:
    await Reader(tmp_path).follow(page("bash\nprintf 'a 1 b\\nc\\nd\\n'", "text\na ... b\n..."))


async def test_a_port_of_a_page_is_a_free_one_here(tmp_path: Path) -> None:
    print_port = "bash\nif [ 8000 != 80''00 ]; then echo 8000 8000 8001; fi"
    await Reader(tmp_path).follow(page(print_port, "text\n8000 8000 8001"))


@pytest.mark.parametrize(
    "blocks",
    [
        [FILE, "bash\npython hello.py", "text\nhello"],
        [FILE, "bash\npython hello.py", "text\ngoodbye\nport 8000"],
        ["bash\nfalse"],
        ["bash\necho error: it works", "text\nerror: it works"],
        ["python\nprint('a file without a name')"],
        ["sh\necho"],
        ["bash\nfalse\ntrue"],
        ["text\n^C"],
    ],
    ids=[
        "too little output",
        "another output",
        "a command that fails",
        "an error that is none",
        "a file without a name",
        "an unknown language",
        "a first command that fails",
        "nothing to interrupt",
    ],
)
async def test_what_is_not_true_is_noticed(tmp_path: Path, blocks: list[str]) -> None:
    with pytest.raises(AssertionError):
        await Reader(tmp_path).follow(page(*blocks))
