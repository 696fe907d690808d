"""The parts of `dynamo doctor` that no command line reaches: what is slow, what breaks, and what is shown of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.other_servers import answering, silent_port

from dynamo._core.errors import CannotConnect, NotFound
from dynamo.cli._doctor_finding import Finding, Level, fail, lines, ok, run_check, warn
from dynamo.cli._doctor_frontend import check_default_frontend
from dynamo.cli._doctor_http import get
from dynamo.cli._doctor_install import import_problem, packages_of_extras


async def test_a_check_that_hangs_is_a_finding() -> None:
    async def hang() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    [finding] = await run_check("a", hang, 0.01)
    assert (finding.level, finding.what) == (Level.FAIL, "it was not known after 0.01 s")


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (CannotConnect("nobody is there"), "nobody is there", "start one"),
        (NotFound("there is none; make one"), "there is none; make one", ""),
        (ZeroDivisionError("oh"), "the check failed: ZeroDivisionError: oh", "please report it"),
    ],
)
async def test_a_check_that_fails_is_a_finding(error: Exception, what: str, remedy: str) -> None:
    async def break_down() -> list[Finding]:
        raise error

    assert await run_check("a", break_down, 1.0, "start one") == [fail("a", what, remedy)]


def test_each_finding_is_a_line() -> None:
    findings = [
        ok("a", "well"),
        warn("long name", "odd", "do this"),
        fail("b", "broken?", "mend it"),
        fail("c", "lost"),
    ]
    assert list(lines(findings)) == [
        "ok    a          well",
        "warn  long name  odd. Do this",
        "fail  b          broken? Mend it",
        "fail  c          lost",
    ]


@given(st.text(), st.text())
def test_what_others_have_said_cannot_write_over_the_terminal(what: str, remedy: str) -> None:
    [line] = lines([warn("a", what, remedy)])
    assert line.isprintable()


async def test_a_server_that_says_nothing_is_given_up() -> None:
    with silent_port() as port, pytest.raises(CannotConnect):
        await get(f"http://127.0.0.1:{port}", "/health", timeout_s=0.1)


async def test_a_host_that_nobody_can_look_up_is_not_there() -> None:
    with pytest.raises(CannotConnect, match="no frontend answers"):
        await get(f"http://{'a' * 80}:1", "/health")


async def test_without_a_url_a_port_where_nobody_listens_is_well() -> None:
    with answering(b"<html>") as port:
        [taken] = await check_default_frontend(port)
    [free] = await check_default_frontend(port)
    assert (taken.level, free.level) == (Level.WARN, Level.OK)
    assert "something else than a frontend listens" in taken.what
    assert "nobody listens" in free.what


def test_extras_are_those_for_users() -> None:
    requirements = [
        "a>=1",
        "b>=1; extra == 'x'",
        'c[d]>=2 ; python_version > "3" and extra == "x"',
        "t; extra == 'dev'",
    ]
    assert packages_of_extras(requirements) == {"x": ["b", "c"]}


async def test_what_cannot_be_imported_says_why() -> None:
    assert await import_problem(["json", "asyncio"]) == ""
    problem = await import_problem(["json", "no_such_module_here"])
    assert problem == "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'"
