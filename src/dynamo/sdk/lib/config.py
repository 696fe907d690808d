"""The configuration of the services, as the code of a service reads it.

`dynamo serve` merges the command line, the environment and the YAML file into one mapping of service
names to sections and hands it to every worker in `DYNAMO_SERVICE_CONFIG`. A section holds the values
of one service; its key `ServiceArgs` overrides the arguments of `@service`, and its key `common-configs`
lists keys of the section `Common`, whose values its constructor and `as_args` take where the section has none.
"""

from __future__ import annotations

import json
import os
from typing import ClassVar

from dynamo._core.errors import ConfigError
from dynamo._core.stability import stable
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE, Json, Section, values_of

__all__ = ["ServiceConfig"]

#: Flags of vLLM that are on unless they are switched off by name: for these, false says something.
_ON_UNLESS_SAID = frozenset({"enable-prefix-caching", "multi-step-stream-outputs"})


@stable(since="0.1")
class ServiceConfig(dict[str, Section]):
    """Service names, each with its section of values.

    It is a dictionary: `get` and `require` give what is written in a section itself, and nothing of `Common`.
    """

    # The instance and the text that it was read from: another text makes another instance.
    _instance: ClassVar[ServiceConfig | None] = None
    _text: ClassVar[str | None] = None

    @classmethod
    def get_instance(cls) -> ServiceConfig:
        """Return the configuration of this process, as `DYNAMO_SERVICE_CONFIG` has it.

        Raises `ConfigError` if that is no JSON object of sections.
        """
        text = os.environ.get(ENVIRONMENT_VARIABLE, "")
        if cls._instance is None or cls._text != text:
            cls._instance, cls._text = cls.from_json(text), text
        return cls._instance

    @classmethod
    def from_json(cls, text: str) -> ServiceConfig:
        """Read a JSON object of sections. An empty text is an empty configuration.

        Raises `ConfigError` for any other text, and TypeError for what is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a JSON object of sections, not {text!r}")
        try:
            sections = json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE} is not JSON: {error}") from error
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise ConfigError(f"{ENVIRONMENT_VARIABLE} must be a JSON object that maps service names to objects")
        return cls(sections)

    def require(self, service_name: str, key: str) -> Json:
        """Return a value that must be there; a ValueError names it if it is not."""
        section = self._section(service_name)
        if key not in section:
            raise ValueError(f"{service_name}.{key} must be specified in configuration")
        return section[key]

    def as_args(self, service_name: str, prefix: str = "") -> list[str]:
        """Return a section as command line arguments, for a parser that is not ours.

        True becomes `--key` and False nothing, except for the flags of vLLM that are on by default
        (`enable-prefix-caching`, `multi-step-stream-outputs`), whose False becomes `--no-key`. None is left
        out, and a mapping or a list becomes JSON. With a prefix, only the keys that begin with it are taken,
        without it. The keys that the section lists under `common-configs` are taken from the section
        `Common`, unless it has them itself. Raises TypeError for a prefix that is no text.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be what the keys begin with, not {prefix!r}")
        self._section(service_name)
        arguments: list[str] = []
        for key, (_, value) in values_of(self, service_name).items():
            if key.startswith(prefix):
                arguments += _argument(key.removeprefix(prefix), value)
        return arguments

    def _section(self, service_name: str) -> Section:
        section = self.get(service_name, {})
        if not isinstance(section, dict):
            raise ValueError(f"configuration: {service_name} must be a mapping of keys to values, not {section!r}")
        return section


def _argument(key: str, value: Json) -> list[str]:
    if value is None:
        return []
    if value is False:
        flag = key.replace("_", "-")
        return [f"--no-{flag}"] if flag in _ON_UNLESS_SAID else []
    if value is True:
        return [f"--{key}"]
    if isinstance(value, dict | list):
        return [f"--{key}", json.dumps(value)]
    return [f"--{key}", str(value)]
