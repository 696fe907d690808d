"""Services of a graph that run elsewhere: started by somebody else, called from here.

`dynamo serve --depends Worker=dynamo://namespace/component` says so, and every process of the graph reads it
from the environment: such a service is not started, and whoever depends on it calls that component.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from dynamo._core.address import check_name
from dynamo._core.errors import ConfigError, InvalidArgument

#: A JSON object: the name of a service, and `dynamo://namespace/component`.
RUNNER_MAP_VARIABLE = "DYNAMO_RUNNER_MAP"

_SCHEME = "dynamo://"


def parse_depends(entries: Sequence[str]) -> dict[str, str]:
    """Read what `--depends` was given: names of services, each with its address. Raises `ConfigError`."""
    addresses: dict[str, str] = {}
    for entry in entries:
        name, equals, address = (part.strip() for part in entry.partition("="))
        if not (name and equals and address):
            raise ConfigError(f"Invalid format for --depends option. Use format 'name=value', not {entry!r}")
        if name in addresses:
            raise ConfigError(f"--depends names {name} twice: {addresses[name]} and {address}")
        _parse("--depends", name, address)
        addresses[name] = address
    return addresses


def external_services(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the namespace and the component of each service that runs elsewhere. Raises `ConfigError`."""
    text = environment.get(RUNNER_MAP_VARIABLE)
    if not text:
        return {}
    try:
        addresses = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{RUNNER_MAP_VARIABLE} is not JSON: {error}") from error
    if not isinstance(addresses, dict):
        raise ConfigError(f"{RUNNER_MAP_VARIABLE} must be a JSON object that maps names of services to addresses")
    return {name: _parse(RUNNER_MAP_VARIABLE, name, address) for name, address in addresses.items()}


def _parse(where: str, name: str, address: object) -> tuple[str, str]:
    parts = address.removeprefix(_SCHEME).split("/") if isinstance(address, str) else []
    try:
        if len(parts) != 2 or not str(address).startswith(_SCHEME):
            raise InvalidArgument(f"{address!r} is no address")
        check_name("namespace", parts[0])
        check_name("component", parts[1])
    except InvalidArgument as error:
        raise ConfigError(f"{where}: {error.message}; write {name}={_SCHEME}NAMESPACE/COMPONENT") from error
    return parts[0], parts[1]
