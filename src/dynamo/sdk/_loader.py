"""Import strings: how a graph is named on the command line.

`module`, `module:Service`, `module:Service.dependency`, or the same with `path/file.py` in place of the
module. Without a service it is the one root of the module: the service that no other one depends on.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import chdir
from types import ModuleType

from dynamo._core.errors import ConfigError
from dynamo.runtime._blame import blame
from dynamo.sdk._interface import is_interface
from dynamo.sdk._service import Service


class BadGraph(ConfigError):
    """The import string names nothing that can be served."""


class GraphFailed(ConfigError):
    """The user's code raised while it was imported."""


def load_service(import_string: str, working_dir: str) -> Service[object]:
    """Import what `import_string` names, with `working_dir` as the current directory.

    It is put on the path, before the directory that was the current one.
    """
    module_name, _, path = import_string.partition(":")
    if not module_name or import_string.count(":") > 1 or import_string.endswith(":"):
        raise BadGraph(
            f'Invalid import string "{import_string}", must be in format "<module>:<attribute>" or "<module>"'
        )
    directory = os.path.abspath(working_dir)
    for searched in (os.getcwd(), directory):
        if searched not in sys.path:
            sys.path.insert(0, searched)
    file = _file(module_name, directory)
    module = _import(module_name if file is None else _module_name(file), directory)
    if file is not None and not _is_of(module, os.path.join(directory, file)):
        raise BadGraph(
            f'"{file}" has the name of another module, {module.__name__}, which is imported already; rename it'
        )
    return _follow(module, path) if path else _root(module)


def _file(name: str, directory: str) -> str | None:
    """Return the path of the file that is named, from the directory on. None if the name is that of a module."""
    if os.sep not in name and not name.endswith((".py", ".yaml", ".yml")):
        if name.startswith("."):
            raise BadGraph(
                f'Invalid import string "{name}": a module is named from "{directory}" on, without a dot first'
            )
        return None
    extension = os.path.splitext(name)[1]
    if extension != ".py":
        raise BadGraph(f'Invalid module extension "{extension}", only ".py" files are supported')
    relative = os.path.relpath(os.path.join(directory, name), directory)
    if not os.path.isfile(os.path.join(directory, name)) or relative.startswith(".."):
        raise BadGraph(f'Module "{name}" not found in working directory "{directory}"')
    return relative


def _module_name(file: str) -> str:
    stem = os.path.splitext(file)[0]
    if "." in stem:
        raise BadGraph(f'"{file}" cannot be imported: a dot is for packages; rename the folder or the file')
    return stem.replace(os.sep, ".")


def _is_of(module: ModuleType, file: str) -> bool:
    origin = getattr(module, "__file__", None)
    return origin is not None and os.path.samefile(origin, file)


def _import(name: str, directory: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        with chdir(directory):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = _colon_hint(error) or "; run it where the module is, or name that directory with --working-dir"
            raise BadGraph(f'Failed to import module "{name}": {error} in {directory}{hint}') from error
        raise GraphFailed(f'Failed to import module "{name}": {blame(error)}') from error
    except (Exception, SystemExit) as error:
        raise GraphFailed(f'Failed to import module "{name}": {blame(error)}') from error


def _colon_hint(error: ModuleNotFoundError) -> str:
    """What was probably meant, where the first part of a dotted name is a module that has no modules in it."""
    module, _, rest = (error.name or "").rpartition(".")
    return f"; did you mean {module}:{rest}?" if module in sys.modules else ""


def _follow(module: ModuleType, path: str) -> Service[object]:
    """Find an attribute of the module; dots after a service follow its dependencies."""
    first, *rest = path.split(".")
    if not hasattr(module, first):
        raise BadGraph(f'Attribute "{first}" not found in "{module.__name__}"{_services_hint(module)}')
    found: object = getattr(module, first)
    for name in rest:
        if isinstance(found, Service):
            edges = found.edges()
            if name not in edges:
                raise BadGraph(f'Service "{found.name}" has no dependency "{name}"; it has {list(edges)}')
            found = edges[name]
        elif hasattr(found, name):
            found = getattr(found, name)
        else:
            raise BadGraph(f'Attribute "{path}" not found in "{module.__name__}"')
    if isinstance(found, Service):
        return found
    advice = "decorate the class with @service"
    if isinstance(found, type) and is_interface(found):
        advice = "it is an interface, name a service that implements it"
    raise BadGraph(f'Object "{path}" in module "{module.__name__}" is not a DynamoService: {advice}')


def _root(module: ModuleType) -> Service[object]:
    services = _services(module)
    if not services:
        raise BadGraph(f'No DynamoService instances found in module "{module.__name__}"')
    roots = [name for name, service in services.items() if not _is_needed(service, list(services.values()))]
    if len(roots) != 1:
        which = (
            f"Multiple root services found in module '{module.__name__}': {roots}"
            if roots
            else (f"No root DynamoService found in module '{module.__name__}'")
        )
        raise BadGraph(f"{which}. Please specify which service to use with '<module>:<service_name>'")
    return services[roots[0]]


def _is_needed(service: Service[object], services: list[Service[object]]) -> bool:
    """Whether another service depends on this one, or did so before it was linked, or could be linked to it."""
    for other in services:
        declared = [dependency.on for dependency in other.dependencies.values()]
        could_be = [on for on in declared if on.is_interface and issubclass(service.inner, on.inner)]
        if other is not service and (service in [*declared, *other.edges().values()] or could_be):
            return True
    return False


def _services(module: ModuleType) -> dict[str, Service[object]]:
    return {value.name: value for value in vars(module).values() if isinstance(value, Service)}


def _services_hint(module: ModuleType) -> str:
    services = _services(module)
    return f"; its services are {', '.join(services)}" if services else ""
