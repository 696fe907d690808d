"""The configuration of the services, as the code of a service reads it.

`dynamo serve` merges the command line, the environment and the YAML file into one mapping of service
names to sections and hands it to every worker in `DYNAMO_SERVICE_CONFIG`. A section holds the values
of one service; its key `ServiceArgs` overrides the arguments of `@service`.
"""

from __future__ import annotations

import json
import os
from typing import ClassVar

from dynamo._core.errors import ConfigError
from dynamo.sdk._sections import COMMON, COMMON_CONFIGS, ENVIRONMENT_VARIABLE, SERVICE_ARGS, Json, Section

__all__ = ["ServiceConfig"]


class ServiceConfig(dict[str, Section]):
    """Service names, each with its section of values."""

    # The instance and the text that it was read from: another text makes another instance.
    _instance: ClassVar[ServiceConfig | None] = None
    _text: ClassVar[str | None] = None

    @classmethod
    def get_instance(cls) -> ServiceConfig:
        """Return the configuration of this process, as `DYNAMO_SERVICE_CONFIG` has it."""
        text = os.environ.get(ENVIRONMENT_VARIABLE, "")
        if cls._instance is None or cls._text != text:
            cls._instance, cls._text = cls.from_json(text), text
        return cls._instance

    @classmethod
    def from_json(cls, text: str) -> ServiceConfig:
        """Read a JSON object of sections. An empty text is an empty configuration."""
        try:
            sections = json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE} is not JSON: {error}") from error
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise ConfigError(f"{ENVIRONMENT_VARIABLE} must be a JSON object that maps service names to objects")
        return cls(sections)

    def require(self, service_name: str, key: str) -> Json:
        """Return a value that must be there; `ValueError` names it if it is not."""
        section = self.get(service_name, {})
        if key not in section:
            raise ValueError(f"{service_name}.{key} must be specified in configuration")
        return section[key]

    def as_args(self, service_name: str, prefix: str = "") -> list[str]:
        """Return a section as command line arguments, for a parser that is not ours.

        True becomes a flag, False nothing; a mapping or a list becomes JSON. With a prefix, only the
        keys that begin with it are taken, without it. The keys that the section lists under
        `common-configs` are taken from the section `Common`, unless it has them itself.
        """
        if service_name not in self:
            return []
        section = self[service_name]
        arguments: list[str] = []
        for key, value in {**self._common(section), **section}.items():
            if key == SERVICE_ARGS or key.endswith(COMMON_CONFIGS) or not key.startswith(prefix):
                continue
            arguments += _argument(key.removeprefix(prefix), value)
        return arguments

    def _common(self, section: Section) -> Section:
        wanted = section.get(COMMON_CONFIGS)
        if not isinstance(wanted, list):
            return {}
        return {key: value for key, value in self.get(COMMON, {}).items() if key in wanted and key not in section}


def _argument(key: str, value: Json) -> list[str]:
    if value is False:
        return []
    if value is True:
        return [f"--{key}"]
    if isinstance(value, dict | list):
        return [f"--{key}", json.dumps(value)]
    return [f"--{key}", str(value)]
