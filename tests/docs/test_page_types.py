"""The programs in the pages type-check: `mypy --strict`, once for all of them.

Pages on services leave out the types that nothing depends on; those on the API say all of them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.reader import blocks_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What mypy has read of ours, which takes most of the time, is kept.
CACHE = ROOT / ".cache" / "mypy-pages"
DEADLINE_S = 600.0
#: Pages whose programs say all types.
WHOLLY_TYPED = ("api", "entrypoints", "kv_routing", "metrics", "migrating", "runtime", "stability")

#: What is said of programs that are wrong on purpose, of another package, or beyond mypy, which does not see what the
#: decorator of a class gives.
SAID = {
    "composing/misspelt.py": {"attr-defined"},
    "composing/test_front.py": {"assignment"},
    "composing/direct.py": {"attr-defined"},
    "composing/direct_graph.py": {"attr-defined"},
    "composing/loud.py": {"attr-defined"},
    "migrating/bento.py": {"import-not-found", "untyped-decorator"},
}

_FILE = re.compile(r"# (\w+\.py)\n")
_COMPLAINT = re.compile(r"^(\S+?):\d+: error: .*\[([\w-]+)\]$", re.MULTILINE)


def save_programs(page: Path, folder: Path) -> str:
    """Save the programs of a page as a package, and return its name. Of one that changes, the last that is Python."""
    blocks = [block.text for block in blocks_of(page.read_text()) if block.language == "python"]
    texts = {name[1]: text for text in blocks if (name := _FILE.match(text)) and is_python(text)}
    package = page.stem.replace("-", "_").lower()
    own = re.compile(rf"^from ({'|'.join(name.removesuffix('.py') for name in texts)}) import", re.MULTILINE)
    for file_name, text in texts.items():
        file = folder / package / file_name
        file.parent.mkdir(exist_ok=True)
        file.write_text(own.sub(rf"from {package}.\1 import", text))
    return package


def is_python(text: str) -> bool:
    """Whether it can be read: some pages tell what becomes of what cannot."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


@pytest.mark.timeout(DEADLINE_S + 10)
def test_the_programs_of_the_pages_type_check(tmp_path: Path) -> None:
    packages = [save_programs(page, tmp_path) for page in PAGES]
    partly = ",".join(f"{package}.*" for package in packages if package not in WHOLLY_TYPED)
    config = tmp_path / "mypy.ini"
    config.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'src'}\nfollow_imports = silent\n"
        "explicit_package_bases = true\nnamespace_packages = true\n"
        f"[mypy-{partly}]\ndisallow_untyped_defs = false\ndisallow_incomplete_defs = false\n"
        "disallow_untyped_calls = false\ncheck_untyped_defs = true\n"
        "[mypy-transformers.*,vllm.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
    )
    command = (sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(CACHE), ".")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
    said: dict[str, set[str]] = {}
    for file, code in _COMPLAINT.findall(done.stdout):
        said.setdefault(file, set()).add(code)
    assert said == SAID, done.stdout + done.stderr
