"""What would be started, and with which configuration, as `dynamo serve --dry-run` shows it."""

from __future__ import annotations

import json

from dynamo.sdk._console import Console
from dynamo.sdk._plan import Plan


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    console.say("Services:")
    for service in plan.services:
        where = "" if service.http is None else f", {service.http.url}"
        console.say(f"  {service.name}: {service.workers} {'worker' if service.workers == 1 else 'workers'}{where}")
    console.say("\nService Configuration:")
    console.say(json.dumps(plan.config, indent=2))
    console.say("\nEnvironment Variable that would be set:")
    for name, value in plan.environment.items():
        console.say(f"{name}={value}")
