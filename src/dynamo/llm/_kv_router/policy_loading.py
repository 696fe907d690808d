"""Importing a policy by its name, `MODULE:NAME`. Whatever is wrong is one line: what, in which file, and what to do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from dynamo._core.errors import ConfigError
from dynamo.llm._kv_router.policy_place import defined_at, place_of, said_by

#: So many names of a module are told to somebody who asks for another one.
NAMED_MAX = 8
_OURS = (__file__, importlib.__file__)


def import_policy(name: str) -> object:
    """Return what the name stands for, and of a class an object. Modules in the working directory are found, too.

    Raises `ConfigError`.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise _wrong(name, "it must be written MODULE:NAME, such as my_policy:cost for cost in my_policy.py")
    if module_name.endswith(".py"):
        raise _wrong(name, f"give the module and not its file: {module_name.removesuffix('.py')}:{attribute}")
    module = _module(name, module_name)
    try:
        found: object = getattr(module, attribute)
    except AttributeError as error:
        file = vars(module).get("__file__") or module_name
        raise _wrong(name, f"{file} has no {attribute!r}; it defines {_names_of(module)}") from error
    except (Exception, SystemExit) as error:  # a module may have a `__getattr__` of its own
        place = place_of(error, outside=_OURS) or module_name
        raise _wrong(name, f"the module does not give {attribute!r} ({place}): {said_by(error)}") from error
    if not isinstance(found, type):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # whatever a class of somebody's does
        place = place_of(error, outside=_OURS) or defined_at(found) or module_name
        raise _wrong(name, f"the class cannot be made without arguments ({place}): {said_by(error)}") from error


def _module(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            where = f"neither in the working directory {here} nor among what is installed"
            raise _wrong(
                name, f"there is no module {error.name!r}, {where}: mend the name, or start where its file is"
            ) from error
        raise _broken(name, module_name, error) from error
    except (Exception, SystemExit) as error:  # whatever a module of somebody's does
        raise _broken(name, module_name, error) from error


def _broken(name: str, module_name: str, error: BaseException) -> ConfigError:
    place = place_of(error, outside=_OURS) or module_name
    return _wrong(name, f"the module cannot be imported ({place}): {said_by(error)}")


def _wrong(name: str, why: str) -> ConfigError:
    return ConfigError(f"the routing policy {name!r} cannot be loaded: {why}", setting="policy")


def _names_of(module: ModuleType) -> str:
    own = sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    )
    if not own:
        return "no function and no class"
    return ", ".join(own[:NAMED_MAX]) + (", ..." if len(own) > NAMED_MAX else "")
