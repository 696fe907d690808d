"""What a check of `dynamo doctor` has found, and how checks are run: in time, and without an end of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from dynamo._core.errors import CannotConnect, DynamoError


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: It works, and probably not as it was meant.
    WARN = "warn"
    #: It does not work.
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    #: What was looked at.
    check: str
    what: str
    #: What to do about it; empty if there is nothing to do.
    remedy: str = ""

    def fields(self) -> dict[str, str]:
        """The finding for a program."""
        return {name: str(value) for name, value in asdict(self).items()}


Check = Callable[[], Awaitable[list[Finding]]]


def ok(check: str, what: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Level.OK, check, what)


def warn(check: str, what: str, remedy: str) -> Finding:
    """It works, and probably not as it was meant."""
    return Finding(Level.WARN, check, what, remedy)


def fail(check: str, what: str, remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(Level.FAIL, check, what, remedy)


async def run_check(name: str, check: Check, timeout_s: float, remedy: str = "") -> list[Finding]:
    """Run a check; whatever becomes of it is a finding. `remedy` is for what cannot be reached."""
    try:
        async with asyncio.timeout(timeout_s):
            return await check()
    except TimeoutError:
        return [fail(name, f"it was not known after {timeout_s:g} s", "see whether the machine or a server is stuck")]
    except CannotConnect as error:
        return [fail(name, error.message, remedy)]
    except DynamoError as error:
        return [fail(name, error.message)]
    except Exception as error:
        # The doctor is for when nothing is as it should be: what one check did not expect must not hide the others.
        return [fail(name, f"the check failed: {type(error).__name__}: {error}", "please report it")]


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The report as text. What others have said cannot write over it."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        text = f"{_ended(finding.what)} {_begun(finding.remedy)}" if finding.remedy else finding.what
        line = f"{finding.level:<4}  {finding.check:<{width}}  {text}"
        yield "".join(each if each.isprintable() else "?" for each in " ".join(line.splitlines()))


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]
