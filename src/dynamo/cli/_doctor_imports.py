"""`dynamo doctor --imports`: what to change in code that was written for something older, or for something else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynamo.cli._code_names import NOTEBOOK, NotReadableError, Use, uses_in
from dynamo.cli._doctor_finding import Finding, fail, ok, warn
from dynamo.cli._moved_names import ARGUMENTS, BENTOML, DYNAMO, METHODS, Moved
from dynamo.cli._public_names import is_module, public_names, resembling

FILES_MAX = 20_000
_PUBLIC = ("dynamo.runtime", "dynamo.llm", "dynamo.metrics", "dynamo.sdk")
#: What `dynamo._core` has itself: the rest is in its modules.
_CORE_NAME = "log_message"
_SEE = "see docs/api.md for what there is"
PACKAGES = frozenset({"dynamo", "bentoml"})
#: Folders in which nobody's own code is.
_FOREIGN = frozenset({"__pycache__", "node_modules", "site-packages"})


def look_at_code(paths: Sequence[Path]) -> list[Finding]:
    """Read files, and what is in folders; return a finding for each line that has to change, or an `ok`."""
    findings: list[Finding] = []
    num_files = 0
    for path in files_of(paths):
        if num_files == FILES_MAX:
            findings.append(warn(str(path), f"{FILES_MAX} files are read, and not this one", "name a smaller folder"))
            break
        num_files += 1
        findings += look_at_file(path)
    if findings:
        return findings
    if not num_files:
        return [warn("imports", "no Python file is there", "see whether the name of the folder is right")]
    return [ok("imports", f"{num_files} file{'' if num_files == 1 else 's'} read, nothing has to change")]


def look_at_file(path: Path) -> list[Finding]:
    """Return a finding for each line of a file that has to change."""
    try:
        uses = uses_in(path, PACKAGES)
    except NotReadableError as error:
        return [fail(str(path), f"it could not be read: {error}")]
    return [found for use in uses if (found := look_at_use(str(path), use)) is not None]


def look_at_use(path: str, use: Use) -> Finding | None:
    """Say what has to change about one use of a name; None if nothing has to."""
    at = f"{path}:{use.line}"
    if use.argument:
        return _look_at_argument(at, use)
    if use.name.startswith("."):
        moved = METHODS.get(use.name[1:])
        return None if moved is None else warn(at, f"{use.name[1:]}() is an older name", str(moved))
    if (listed := _listed(use.name)) is None:
        return _look_at_ours(at, use.name)
    name, moved = listed
    if moved.works:
        return warn(at, f"{name} is an older name", str(moved))
    return fail(at, f"{use.name} is BentoML's" if name in BENTOML else f"{name} is not here", str(moved))


def _look_at_argument(at: str, use: Use) -> Finding | None:
    """Say what has to change about an argument of a call; None if nothing has to."""
    moved = ARGUMENTS.get((use.name, use.argument))
    if moved is None:
        return None
    given = "arguments by place" if use.argument == "*" else f"{use.argument}="
    call = f"{use.name.removeprefix('.')}() with {given}"
    if moved.works:
        return warn(at, f"{call} is an older form", str(moved))
    return fail(at, f"{call} is not here", str(moved))


def files_of(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and the Python files and notebooks in the folders that are not environments or hidden.

    A folder that cannot be listed is yielded itself: it cannot be read, either.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        unlisted: list[OSError] = []
        for folder, folders, files in os.walk(path, onerror=unlisted.append):
            folders[:] = sorted(
                one for one in folders
                if not one.startswith(".") and one not in _FOREIGN
                and not os.path.exists(os.path.join(folder, one, "pyvenv.cfg"))
            )  # fmt: skip
            yield from (Path(folder, file) for file in sorted(files) if file.endswith((".py", NOTEBOOK)))
        yield from (Path(error.filename) for error in unlisted)


def _listed(name: str) -> tuple[str, Moved] | None:
    """The entry for a name, or for the nearest thing that it is in."""
    table = DYNAMO if name.startswith("dynamo.") else BENTOML
    while name:
        if name in table:
            return name, table[name]
        name = name.rpartition(".")[0]
    return None


def _look_at_ours(at: str, name: str) -> Finding | None:
    """Say what is wrong with a name that nothing is known of but what is in our modules."""
    module, rest = name, ""
    while not is_module(module):
        module, _, last = module.rpartition(".")
        rest = last
    if module == "dynamo._core" and rest and rest != _CORE_NAME:
        return fail(at, f"dynamo._core has no {rest}", _public_place(rest))
    if any(part.startswith("_") for part in module.split(".")) and not module.startswith("dynamo._internal"):
        return warn(at, f"{module} is not public", "it may change without notice: see docs/api.md for what is")
    if not rest or rest.startswith("__") or rest in (public_names(module) or ()):
        return None
    meant = resembling(module, rest)
    return fail(at, f"{module} has no {rest}", f"did you mean {meant}?" if meant else _SEE)


def _public_place(name: str) -> str:
    """Where somebody finds a name that others have in `dynamo._core`."""
    places = [module for module in _PUBLIC if name in (public_names(module) or ())]
    return f"write {places[0]}.{name}" if places else _SEE
