"""Every variable that the code reads is declared, and every one that is declared is read."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator

from scripts._api.items import Item
from scripts._api.others import other_items
from tests.api.modules import SOURCE, all_files, all_modules

from dynamo._core.stability import Tier
from dynamo.cli._options import COMMANDS, known_variables, remarks, settings_of_commands, tier_in
from dynamo.runtime._settings import Settings, options_of
from dynamo.runtime._variables import VARIABLES

_NAME = re.compile(r"(?:DYN|DYNAMO|ETCD|NATS)_[A-Z0-9_]*[A-Z0-9]")
#: How the names of some begin whose ends stand beside.
_BEGINNING = re.compile(r"(?:DYN|DYNAMO)_[A-Z0-9]+_[A-Z0-9_]*_")
#: What names begin with that the code puts together, and where all of those are.
_PUT_TOGETHER = {
    "DYNAMO_": "dynamo.sdk._plan: of options whose variables are declared; dynamo.cli: a prefix to look for",
    "DYNAMO_SYSTEM_APP_": "dynamo.runtime._system: declared, each of three",
    "DYN_": "dynamo.runtime._settings: of every option; dynamo.cli: a prefix to look for",
    "ETCD_AUTH_": "a message names what is missing; dynamo.cli: a prefix to look for",
    "NATS_AUTH_": "a message names what is missing; dynamo.cli: a prefix to look for",
    "NATS_TLS_": "dynamo.cli: a prefix to look for",
}
_BEGINS = re.compile(r"(?:DYN|DYNAMO|ETCD|NATS)_(?:[A-Z0-9_]*_)?")
#: Names in `dynamo.sdk` that are no variables, and parts of messages.
_NO_VARIABLES = {"ETCD_AUTH"}
_REGISTRY = "runtime/_variables.py"


def texts() -> Iterator[str]:
    """Yield every text that stands alone in the code."""
    for path in all_files():
        if str(path.relative_to(SOURCE / "dynamo")) != _REGISTRY:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_variable_that_is_read_is_declared() -> None:
    named = {text for text in texts() if _NAME.fullmatch(text)} - _NO_VARIABLES
    assert sorted(named - set(known_variables())) == []


def test_names_that_the_code_puts_together_are_known_here() -> None:
    assert {text for text in texts() if _BEGINS.fullmatch(text)} == set(_PUT_TOGETHER)


def test_every_variable_that_is_declared_is_read() -> None:
    found = set(texts())
    beginnings = tuple(text for text in found if _BEGINNING.fullmatch(text))
    unread = [one.name for one in VARIABLES if one.name not in found and not one.name.startswith(beginnings)]
    assert unread == []


def test_no_variable_is_declared_twice() -> None:
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))


def test_the_settings_of_every_command_are_known() -> None:
    for module in all_modules():
        importlib.import_module(module)
    assert set(leaves(Settings)) == set(settings_of_commands().values())


def leaves(kind: type[Settings]) -> Iterator[type[Settings]]:
    for derived in kind.__subclasses__():
        if derived.__module__.startswith("dynamo."):
            yield from leaves(derived) if derived.__subclasses__() else (derived,)


def test_an_option_is_never_more_stable_than_its_command() -> None:
    settings = settings_of_commands()
    for command, (tier, _) in COMMANDS.items():
        for option in options_of(settings[command]):
            assert list(Tier).index(tier_in(command, option)) >= list(Tier).index(tier)


def test_a_variable_that_is_not_stable_or_that_nothing_reads_is_remarked_upon() -> None:
    said = remarks(["DYN_HTTP_PORT", "DYN_ROUTER_TEMPERATURE", "DYN_RUOTER_MODE", "DYN_XYZZY_42", "PATH"])
    assert said == {
        "DYN_ROUTER_TEMPERATURE": "beta",
        "DYN_RUOTER_MODE": "nothing reads it; did you mean DYN_ROUTER_MODE?",
        "DYN_XYZZY_42": "nothing reads it",
    }


def test_the_file_has_every_variable_and_every_option() -> None:
    items: dict[str, Item] = {item.name: item for item in other_items()}
    assert items["$DYN_LOG"] == Item("$DYN_LOG", "variable", "stable 0.1")
    port = Item(
        "python -m dynamo.frontend --http-port",
        "option N = 8000, from 0 to 65535, $DYN_HTTP_PORT",
        "stable 0.1",
    )
    assert items[port.name] == port
    assert items["dynamo serve --port"] == Item("dynamo serve --port", "option int | None = None, -p, $DYNAMO_PORT")
    assert items["dynamo serve GRAPH"].form == "argument str required"
    assert items["dynamo replay"].promise == "beta 0.1"
