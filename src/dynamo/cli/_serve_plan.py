"""From what the command line of `dynamo serve` says to a plan: at the start, and whenever something is edited."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo._core.errors import ConfigError, WrongUsage
from dynamo.cli._serve_options import ServeOptions
from dynamo.runtime._system import system_settings
from dynamo.sdk._config import MergedConfig, merged_config
from dynamo.sdk._console import Console
from dynamo.sdk._importing import read_outline
from dynamo.sdk._orphans import Family
from dynamo.sdk._plan import Plan, make_plan
from dynamo.sdk._runner_map import RUNNER_MAP_VARIABLE, parse_depends
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served: what the command line says, where and among which variables."""

    options: ServeOptions
    working_dir: str
    #: The configuration in it is a layer of the whole one.
    environment: Mapping[str, str]

    async def plan(self, console: Console, family: Family, import_environment: Mapping[str, str]) -> Plan:
        """Read the configuration and the graph, and decide what runs. Raises `ConfigError` for what cannot work.

        `import_environment` is for the process that imports the graph, beside the configuration.
        """
        options, config = self.options, self._config()
        variables = {**import_environment, ENVIRONMENT_VARIABLE: json.dumps(config)}
        outline = await read_outline(
            options.graph, self.working_dir, console, variables, family, verbose=options.verbose
        )
        plan = make_plan(
            options.graph,
            self.working_dir,
            outline,
            config,
            self.environment,
            host=options.host,
            port=options.port,
            insecure=options.insecure,
            service_name=options.service_name,
        )
        for warning in plan.warnings:
            console.warn(warning)
        return plan

    def _config(self) -> MergedConfig:
        try:
            return merged_config(self.options.config_file, self.environment, self.options.overrides)
        except ConfigError as error:
            raise WrongUsage(error.message) from error


def check_reload(environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` if the environment has what old and new processes cannot have side by side."""
    system = system_settings(environment)
    if system is not None and system.port:
        raise WrongUsage(
            f"--reload starts new processes beside the old ones, which cannot share the port {system.port} of the "
            "system server: set DYN_SYSTEM_PORT=0, which takes a free port for each"
        )


def depends_variables(depends: Sequence[str]) -> dict[str, str]:
    """The variable that says which services run elsewhere. Raises `WrongUsage`."""
    try:
        return {RUNNER_MAP_VARIABLE: json.dumps(parse_depends(depends))} if depends else {}
    except ConfigError as error:
        raise WrongUsage(error.message) from error
