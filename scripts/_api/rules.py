"""Whether what changed was announced: the promise of `docs/stability.md`, as far as a machine can check it.

Released surfaces are kept in `docs/api`, one file for each minor version, beside that of the next release:

- What is stable and goes, or is used in another way, was deprecated in a release of an earlier minor version; within
  one minor version nothing of it goes. So it is with a parameter.
- Whatever comes, goes or changes is named in the changelog, under the heading of what is not released; a parameter of
  another type or with another default in the same point as what takes it.
- Every public name has a tier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from scripts._api.compare import Loss, losses, retyped
from scripts._api.items import Surface, is_deprecated, owners, read, tier_of

UNRELEASED = "unreleased.txt"
_SNAPSHOT = re.compile(r"(\d+)\.(\d+)\.txt")
_CODE = re.compile(r"`([^`]+)`")
_WORD = re.compile(r"[\w-]+")
_POINT = re.compile(r"^- ", re.MULTILINE)

Version = tuple[int, int]


def released(folder: Path) -> dict[Version, Surface]:
    """Return the released surfaces by their versions, in order."""
    found = {path: _SNAPSHOT.fullmatch(path.name) for path in folder.glob("*.txt")}
    versions = {(int(match[1]), int(match[2])): path for path, match in found.items() if match}
    return {version: read(versions[version]) for version in sorted(versions)}


def faults(current: Surface, releases: dict[Version, Surface], version: Version, changelog: str) -> Iterator[str]:
    """Yield what is wrong, a sentence for each. `version` is that of the next release."""
    yield from _without_tier(current)
    last = releases[max(releases)] if releases else {}
    yield from _not_deprecated(current, releases, version)
    words = set(_announced(changelog))
    for name in sorted(_to_announce(last, current)):
        if not _last_word(name) & words:
            yield f"{name} came, went or changed: name it in CHANGELOG.md, under unreleased, as `{_shown(name)}`"
    points = [set(_words_in(point)) for point in _POINT.split(_unreleased(changelog))]
    for name, parameter in sorted(retyped(last, current)):
        if not any(parameter in point and _last_word(name) & point for point in points):
            yield (
                f"{name} takes another {parameter}, or has another default for it: say so in CHANGELOG.md, under "
                f"unreleased, in one point with both `{_shown(name)}` and `{parameter}`"
            )


def _without_tier(current: Surface) -> Iterator[str]:
    for name, item in current.items():
        if not tier_of(item, current):
            yield f"{name} has no tier: put @stable(since=...), @beta or @experimental above it"


def _not_deprecated(current: Surface, releases: dict[Version, Surface], version: Version) -> Iterator[str]:
    if not releases:
        return
    latest = max(releases)
    last = releases[latest]
    for loss in losses(last, current):
        if loss.name in last and tier_of(last[loss.name], last) != "stable":
            continue
        if latest >= version:
            yield f"{loss.name} {loss.what}: not within {version[0]}.{version[1]}, which has it as stable"
        elif not _was_deprecated(loss, last):
            yield (
                f"{loss.name} {loss.what}: it is stable, and {latest[0]}.{latest[1]} did not deprecate it; keep what "
                "works, deprecate it, and change it one minor release later"
            )


def _was_deprecated(loss: Loss, last: Surface) -> bool:
    """Whether everybody who notices was told: what is called goes, or a parameter that they give."""
    return is_deprecated(loss.name, last) or (loss.name in last and bool(loss.given & {*last[loss.name].parameters}))


def _to_announce(last: Surface, current: Surface) -> set[str]:
    """The names that differ; of a new or a lost class or command the members are not named one by one.

    Messages are known to other programs from the first release on, and to nobody before.
    """
    differ = {name for name in {*last, *current} if last.get(name) != current.get(name)}
    if not last:
        differ = {name for name in differ if not name.startswith("message ")}
    appeared = {name for name in differ if (name in last) != (name in current)}
    return {name for name in differ if not (name in appeared and any(owner in appeared for owner in owners(name)))}


def _announced(changelog: str) -> Iterator[str]:
    """Yield the words in backticks of what is not released."""
    yield from _words_in(_unreleased(changelog))


def _words_in(text: str) -> Iterator[str]:
    for code in _CODE.findall(text):
        yield from _WORD.findall(code)


def _unreleased(changelog: str) -> str:
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    return next((section for section in sections if "unreleased" in section.partition("\n")[0].lower()), "")


def _last_word(name: str) -> set[str]:
    return set(_WORD.findall(_shown(name))[-1:])


def _shown(name: str) -> str:
    return name.removeprefix("$").rpartition(" ")[2].rpartition(".")[2]


def changelog_lines(current: Surface, releases: dict[Version, Surface], changelog: str) -> list[str]:
    """Return lines that announce what is not announced yet, one for each module or command."""
    last = releases[max(releases)] if releases else {}
    words = set(_announced(changelog))
    groups: dict[str, list[str]] = {}
    for name in sorted(_to_announce(last, current)):
        if not _last_word(name) & words:
            owner = next(owners(name), "")
            groups.setdefault(owner, []).append(f"`{_shown(name)}`")
    return [f"- {f'`{owner}`: ' if owner else 'Variables: '}{', '.join(names)}." for owner, names in groups.items()]
