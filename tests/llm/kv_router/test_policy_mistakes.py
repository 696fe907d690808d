"""What is wrong with a policy of one's own is said when it is loaded, or in the log when a request needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.errors import ConfigError, HandlerError
from dynamo.llm._kv_faults import TELL_EVERY_S
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._kv_router.policy import Candidate, CustomPolicy, Policy
from dynamo.llm._open_router import check_router_config

WORKERS = FixedWorkers([1, 2, 3])
HERE = Path(__file__).name


class Clock:
    """Time that a test makes pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(policy: Policy, times: int = 1, clock: Callable[[], float] | None = None) -> HandlerError:
    """Have a policy choose; returns why the last request fails, after which nothing is booked."""
    at = desk(WORKERS, {}, policy=policy)
    if clock is not None:
        at.clock = clock
    for _ in range(times):
        with pytest.raises(HandlerError) as caught:
            at.route(asked(list(range(40))), BLOCK_SIZE).choose([1, 2, 3])
    assert all(load.num_requests == 0 for load in at.selector.fleet.loads([1, 2, 3]))
    return caught.value


def fails(candidate: Candidate) -> float:
    raise RuntimeError("no idea")


def fails_in_a_library(candidate: Candidate) -> float:
    return float(Path("\0").stat().st_size)


def not_finite(candidate: Candidate) -> float:
    return float("nan")


def nothing(candidate: Candidate) -> float:
    return None  # type: ignore[return-value]


def text(candidate: Candidate) -> float:
    return "1.5"  # type: ignore[return-value]


def somebody_else(candidates: list[Candidate]) -> Candidate:
    return Candidate(9, 0, 0, 0, 0, 0, 0, 0, 0, None, frozenset(), 0.0)


def nobody(candidates: list[Candidate]) -> Candidate:
    return None  # type: ignore[return-value]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def unspeakable(candidate: Candidate) -> float:
    raise Unspeakable


def exits(candidate: Candidate) -> float:
    raise SystemExit(3)


def exits_without_a_word(candidates: list[Candidate]) -> Candidate:
    raise SystemExit


def is_interrupted(candidate: Candidate) -> float:
    raise KeyboardInterrupt


def line_of(function: Callable[..., object], behind: int = 0) -> str:
    return f"{HERE}, line {function.__code__.co_firstlineno + behind}"


@pytest.mark.parametrize(
    ("policy", "why", "place"),
    [
        (fails, "RuntimeError: no idea", line_of(fails, 1)),
        (fails_in_a_library, "ValueError: embedded null byte", line_of(fails_in_a_library, 1)),
        (not_finite, "it returned nan, and a cost is a finite number", line_of(not_finite)),
        (nothing, "it returned None, and a cost is a finite number", line_of(nothing)),
        (text, "it returned '1.5', and a cost is a finite number", line_of(text)),
        (somebody_else, "it returned Candidate(worker_id=9, ", line_of(somebody_else)),
        (nobody, "it returned None, which is none of the candidates", line_of(nobody)),
        (unspeakable, "Unspeakable: <exception str() failed>", line_of(unspeakable, 1)),
        (exits, "SystemExit: 3", line_of(exits, 1)),
        (exits_without_a_word, "SystemExit", line_of(exits_without_a_word, 1)),
    ],
)
def test_a_policy_that_fails_fails_the_request_and_the_log_says_where_and_why(
    policy: Policy, why: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = ask(policy)
    (record,) = caplog.records
    for said in (error.message, record.getMessage()):
        assert f"the routing policy {getattr(policy, '__name__')} failed (" in said  # noqa: B009
        assert f"{place}): " in said
        assert why in said


def test_ctrl_c_while_a_policy_is_asked_is_no_failure_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        desk(WORKERS, {}, policy=is_interrupted).route(asked(list(range(40))), BLOCK_SIZE).choose([1, 2, 3])
    assert caplog.records == []


def test_a_policy_that_fails_for_every_request_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    errors = iter([RuntimeError("a"), RuntimeError("b"), KeyError("c"), RuntimeError("d"), RuntimeError("e")])

    def unsure(candidate: Candidate) -> float:
        clock.now += TELL_EVERY_S / 3
        raise next(errors)

    ask(unsure, times=5, clock=clock)
    told = [record.getMessage() for record in caplog.records]
    assert [one.rpartition("): ")[2] for one in told] == [
        "RuntimeError: a (RuntimeError, 1 so far; each such request gets an error)",
        "KeyError: 'c' (KeyError, 1 so far; each such request gets an error)",
        "RuntimeError: d (RuntimeError, 3 so far; each such request gets an error)",
    ]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, for modules of a test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistake(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_router_config(RouterConfig(RouterMode.KV, KvRouterConfig(policy=name)))
    said = str(caught.value)
    assert "\n" not in said
    assert name in said
    return said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine", "it must be written MODULE:NAME, such as my_policy:cost"),
        (":x", "it must be written MODULE:NAME"),
        ("a..b:x", "it must be written MODULE:NAME"),
        ("my_policy.py:cost", "give the module and not its file: my_policy:cost"),
        ("json:no_such_name", "json/__init__.py has no 'no_such_name'; it defines detect_encoding, dump, "),
        ("json:loads", "is no routing policy: it must be a function of `candidate`"),
    ],
)
def test_a_name_that_is_of_no_policy_is_refused_with_what_to_do(name: str, why: str) -> None:
    assert why in mistake(name)


def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for(modules: Path) -> None:
    said = mistake("no_such_module_here:x")
    assert f"there is no module 'no_such_module_here', neither in the working directory {modules}" in said


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import math\n\nx = 1 / 0\n", "line 3): ZeroDivisionError: division by zero"),
        ("\ndef cost(:\n", "line 2): SyntaxError: invalid syntax"),
        ("import nothing_like_it\n", "line 1): ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("import sys\nsys.exit(3)\n", "line 2): SystemExit: 3"),
        ("import json\njson.loads('{')\n", "line 2): json.decoder.JSONDecodeError: Expecting property name"),
        ("raise ValueError('two\\nlines')\n", "line 1): ValueError: two lines"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(
    code: str, why: str, modules: Path, request: pytest.FixtureRequest
) -> None:
    name = f"broken_policy_{abs(hash(code))}"
    (modules / f"{name}.py").write_text(code)
    assert f"the module cannot be imported ({modules / name}.py, {why}" in mistake(f"{name}:cost")


def test_a_class_that_needs_arguments_is_refused_and_so_is_what_would_have_to_be_awaited(modules: Path) -> None:
    (modules / "policies_that_are_none.py").write_text(
        "class Needs:\n"
        "    def __init__(self, weight):\n"
        "        pass\n"
        "    def cost(self, candidate):\n"
        "        return 1\n"
        "class TakesTwo:\n"
        "    def cost(self, candidate, other):\n"
        "        return 1\n"
        "async def later(candidate):\n"
        "    return 1\n"
    )
    needs = mistake("policies_that_are_none:Needs")
    assert "the class cannot be made without arguments" in needs
    assert "missing 1 required positional argument: 'weight'" in needs
    assert "a method cost(candidate)" in mistake("policies_that_are_none:TakesTwo")
    later = mistake("policies_that_are_none:later")
    assert f"({modules}/policies_that_are_none.py, line 9) is no routing policy: it is async" in later


def test_a_class_that_ends_the_process_is_refused(modules: Path) -> None:
    (modules / "policy_that_exits.py").write_text(
        "import sys\nclass Exits:\n    def __init__(self):\n        sys.exit(3)\n"
    )
    assert f"({modules}/policy_that_exits.py, line 4): SystemExit: 3" in mistake("policy_that_exits:Exits")


@pytest.mark.parametrize(
    ("error", "said"), [("RuntimeError('no')", "RuntimeError: no"), ("SystemExit(3)", "SystemExit: 3")]
)
def test_a_module_that_does_not_give_its_names_is_refused(error: str, said: str, modules: Path) -> None:
    name = f"policy_without_names_{said[:4].lower()}"
    (modules / f"{name}.py").write_text(f"def __getattr__(name):\n    raise {error}\n")
    assert f"the module does not give 'cost' ({modules}/{name}.py, line 2): {said}" in mistake(f"{name}:cost")


def test_a_module_without_a_file_is_named() -> None:
    assert "sys has no 'cost'; it defines " in mistake("sys:cost")


@pytest.mark.parametrize("policy", [lambda worker: 1.0, lambda: 1.0, lambda a, b: 1.0, 7, "x:y"])
def test_what_is_no_policy_is_refused_with_what_would_be_one(policy: object) -> None:
    with pytest.raises(ConfigError, match="a function of `candidate`"):
        CustomPolicy(policy)
