"""Bad input gets one line on stderr that names the thing and the fix, a status that is not 0, and leaves nothing."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.cli.serving import Serving

from dynamo.runtime import DistributedRuntime

Serve = Callable[..., Awaitable[Serving]]

WORKER = """
from dynamo.sdk import dynamo_endpoint, service

@service{decorator}
class Worker:
    def __init__(self, size: int = 1, model_name: str = "m"):
        {constructor}

    @dynamo_endpoint
    async def call(self, request):
        return request
"""
GRAPH = WORKER.format(decorator="", constructor="print('size', size)")

FILES = {
    "graph.py": GRAPH,
    "misspelt.py": WORKER.format(decorator="(worker=2)", constructor="pass"),
    "nested.py": WORKER.format(decorator="(resources={'gpus': 2})", constructor="pass"),
    "negative.py": WORKER.format(decorator="(workers=-1)", constructor="pass"),
    "constructor.py": WORKER.format(decorator="", constructor="raise ValueError('no weights\\nin here')"),
    "hook.py": GRAPH.replace("import ", "import async_on_start, ")
    + "\n    @async_on_start\n    async def warm_up(self):\n        return 1 / 0\n",
    "needy.py": GRAPH.replace("size: int = 1", "size: int"),
    "roots.py": GRAPH + GRAPH.replace("Worker", "Other") + "number = 5\n",
    "needs_module.py": "import no_such_module_at_all\n",
    "needs_variable.py": "import os\nMODEL = os.environ['NO_SUCH_VARIABLE']\n",
    "syntax.py": "def call(:\n",
    "web.py": "from dynamo.sdk import api, service\n"
    "@service\nclass Web:\n    @api\n    async def call(self, request):\n        return request\n",
    "broken.yaml": "Worker:\n  size: [1\n",
    "tab.yaml": "Worker:\n\tsize: 1\n",
    "scalar.yaml": "Worker: 5\n",
    "list.yaml": "- Worker\n",
    "scalar_args.yaml": "Worker:\n  ServiceArgs: 5\n",
    "scalar_resources.yaml": "Worker:\n  ServiceArgs:\n    resources: 5\n",
    "unknown.yaml": "Workr:\n  size: 1\n",
    "unknown_key.yaml": "Worker:\n  ServiceArgs:\n    worker: 2\n",
    "secret.yaml": "Worker:\n  ServiceArgs:\n    labels: {api_key: 123456}\n",
}
HELP = "(see python -m dynamo.cli serve --help)"
IMPORT_FORMAT = 'must be in format "<module>:<attribute>" or "<module>"'


@dataclass(frozen=True)
class Case:
    """What is typed, and the line that it gets. `{folder}` is where it is typed."""

    name: str
    arguments: list[str]
    message: str
    status: int = 2
    environment: dict[str, str] = field(default_factory=dict)


CASES = [
    # The configuration.
    Case(
        "broken YAML",
        ["graph", "-f", "broken.yaml"],
        "broken.yaml:3: this is not YAML: expected ',' or ']', but got '<stream end>'",
    ),
    Case(
        "a tab",
        ["graph", "-f", "tab.yaml"],
        r"tab.yaml:2: this is not YAML: found character '\t' that cannot start any token",
    ),
    Case("a scalar", ["graph", "-f", "scalar.yaml"], "scalar.yaml:1: the section Worker must be a mapping, not 5"),
    Case("a list", ["graph", "-f", "list.yaml"], "list.yaml: the file must map service names to sections"),
    Case(
        "scalar arguments",
        ["graph", "-f", "scalar_args.yaml"],
        "scalar_args.yaml:2: Worker.ServiceArgs: must be a mapping",
    ),
    Case(
        "scalar resources",
        ["graph", "-f", "scalar_resources.yaml"],
        "scalar_resources.yaml:3: Worker.ServiceArgs.resources: must be a mapping, not 5",
    ),
    Case(
        "an unknown service",
        ["graph", "-f", "unknown.yaml"],
        "unknown.yaml:1: Workr: unknown service 'Workr'; did you mean 'Worker'?",
    ),
    Case(
        "an unknown service in an override",
        ["graph", "--Workr.size=1"],
        "--Workr.size: unknown service 'Workr'; did you mean 'Worker'?",
    ),
    Case(
        "an unknown key",
        ["graph", "-f", "unknown_key.yaml"],
        "unknown_key.yaml:3: Worker.ServiceArgs.worker: unknown key 'worker'; did you mean 'workers'?",
    ),
    Case(
        "an unknown key in an override",
        ["graph", "--Worker.ServiceArgs.resources.gpus=1"],
        "--Worker.ServiceArgs.resources.gpus: unknown key 'gpus'; did you mean 'gpu'?",
    ),
    Case(
        "an unknown keyword of the decorator",
        ["misspelt"],
        "Failed to import module \"misspelt\": TypeError: service(): unknown keyword 'worker'; "
        "did you mean 'workers'? (misspelt.py:4)",
        status=1,
    ),
    Case(
        "an unknown key of the decorator",
        ["nested"],
        "Failed to import module \"nested\": TypeError: service(): resources: unknown key 'gpus'; "
        "did you mean 'gpu'? (nested.py:4)",
        status=1,
    ),
    Case(
        "a secret of a wrong type",
        ["graph", "-f", "secret.yaml"],
        "secret.yaml:3: Worker.ServiceArgs.labels.api_key: must be text, not '***'; write it in quotes",
    ),
    # The command line.
    Case("--foo=1", ["graph", "--foo=1"], f"No such option: --foo {HELP}"),
    Case("foo.bar", ["graph", "foo.bar"], f"Got unexpected extra argument(s) (foo.bar) {HELP}"),
    Case(
        "a value without dashes",
        ["graph", "Worker.api_key=sk-123 4"],
        f"Got unexpected extra argument(s) (Worker.api_key=...) {HELP}",
    ),
    Case(
        "a missing value",
        ["graph", "--Worker.size"],
        f"Invalid value: --Worker.size needs a value: write --Worker.size=VALUE {HELP}",
    ),
    Case("an empty value", ["graph", "--Worker.size="], "--Worker.size: must be a whole number, not ''"),
    Case("no key", ["graph", "--Worker.a..b=1"], "--Worker.a..b: an override is written --Service.key=value"),
    Case(
        "a negative number of workers",
        ["graph", "--Worker.ServiceArgs.workers=-1"],
        "--Worker.ServiceArgs.workers: must be at least 1, not -1",
    ),
    Case(
        "a negative number of workers after a space",
        ["graph", "--Worker.ServiceArgs.workers", "-1"],
        "--Worker.ServiceArgs.workers: must be at least 1, not -1",
    ),
    Case(
        "a negative number of workers in the decorator",
        ["negative"],
        'Failed to import module "negative": TypeError: service(): workers: must be at least 1, not -1 (negative.py:4)',
        status=1,
    ),
    Case(
        "a negative port",
        ["web", "--port=-1"],
        "Invalid value for '--port' / '-p' (env var: 'DYNAMO_PORT'): "
        f"Input should be greater than or equal to 0 {HELP}",
    ),
    Case("no graph", [], f"Missing argument 'GRAPH'. {HELP}"),
    # The graph.
    Case(
        "two roots",
        ["roots"],
        "Multiple root services found in module 'roots': ['Worker', 'Other']. "
        "Please specify which service to use with '<module>:<service_name>'",
    ),
    Case("no attribute", ["graph:"], f'Invalid import string "graph:", {IMPORT_FORMAT}'),
    Case("no module", [":Worker"], f'Invalid import string ":Worker", {IMPORT_FORMAT}'),
    Case("two colons", ["a:b:c"], f'Invalid import string "a:b:c", {IMPORT_FORMAT}'),
    Case("another file", ["a.yaml:B"], 'Invalid module extension ".yaml", only ".py" files are supported'),
    Case(
        "an unknown module",
        ["nowhere:Worker"],
        "Failed to import module \"nowhere\": No module named 'nowhere' in {folder}; run it where the module is, "
        "or name that directory with --working-dir",
    ),
    Case("an unknown name", ["graph:Nope"], 'Attribute "Nope" not found in "graph"; its services are Worker'),
    Case(
        "a non-service",
        ["roots:number"],
        'Object "number" in module "roots" is not a DynamoService: decorate the class with @service',
    ),
    # A missing environment.
    Case(
        "a directory that cannot be made",
        ["graph"],
        "Worker:1 failed to start: cannot use /proc/none/dir for discovery: No such file or directory; "
        "set DYN_DISCOVERY to file:// and another directory",
        status=1,
        environment={"DYN_DISCOVERY": "file:///proc/none/dir"},
    ),
    Case(
        "an unknown request plane",
        ["graph"],
        "Worker:1 failed to start: DYN_REQUEST_PLANE='bogus:': unknown scheme 'bogus'; there are inproc: and tcp:",
        status=1,
        environment={"DYN_REQUEST_PLANE": "bogus:"},
    ),
    Case(
        "a variable that is no configuration",
        ["graph"],
        "DYNAMO_SERVICE_CONFIG must be a JSON object that maps service names to objects",
        environment={"DYNAMO_SERVICE_CONFIG": "[]"},
    ),
    Case(
        "a missing file",
        ["graph", "-f", "none.yaml"],
        f"Invalid value for '--config-file' / '-f': file 'none.yaml' does not exist. {HELP}",
    ),
    Case(
        "a missing folder",
        ["graph", "--working-dir", "none"],
        f"Invalid value for '--working-dir': dir 'none' does not exist. {HELP}",
    ),
    Case("a missing parameter", ["needy"], "Worker cannot be built without 'size': set it with --Worker.size=VALUE"),
    Case(
        "a misspelt parameter",
        ["needy", "--Worker.siz=1"],
        "--Worker.siz: Worker cannot be built without 'size'; is it meant by this key?",
    ),
]
#: Faults of the user's code, which have a traceback with -v.
FAULTS = [
    Case(
        "a failing constructor",
        ["constructor"],
        "Worker:1 failed to start: ValueError: no weights (constructor.py:7 in __init__)",
        status=1,
    ),
    Case(
        "a failing hook",
        ["hook"],
        "Worker:1 failed to start: ZeroDivisionError: division by zero (hook.py:15 in warm_up)",
        status=1,
    ),
    Case(
        "a missing module",
        ["needs_module"],
        'Failed to import module "needs_module": ModuleNotFoundError: '
        "No module named 'no_such_module_at_all' (needs_module.py:1)",
        status=1,
    ),
    Case(
        "a missing variable",
        ["needs_variable"],
        "Failed to import module \"needs_variable\": KeyError: 'NO_SUCH_VARIABLE' is not set in the environment; "
        "set it, or give it to the service with ServiceArgs.envs (needs_variable.py:2)",
        status=1,
    ),
    Case(
        "no Python",
        ["syntax"],
        'Failed to import module "syntax": SyntaxError: invalid syntax (syntax.py:1)',
        status=1,
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it is typed; `tmp` in it is for temporary files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "tmp").mkdir()
    return tmp_path


async def refused(serve: Serve, folder: Path, case: Case, *more: str) -> Serving:
    """Type it; make sure of the status, and that nothing is left of it."""
    serving = await serve(*case.arguments, *more, **{"TMPDIR": str(folder / "tmp"), **case.environment})
    assert await serving.exit_status() == case.status
    assert processes_of(serving.process.pid) == []
    assert entries_of(folder / "tmp") == set()
    assert entries_of(folder) - {"discovery", "__pycache__"} == {"tmp", *FILES}
    async with DistributedRuntime(discovery=f"file://{folder / 'discovery'}") as runtime:
        assert await runtime.discovery.get_prefix("") == {}
    return serving


def entries_of(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def processes_of(session: int) -> list[str]:
    """The processes of a session that still run, and what they are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (process / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, belongs_to, *_ = rest.split()
        if int(belongs_to) == session and state != "Z":
            found.append(name)
    return found


def names(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", [*CASES, *FAULTS], ids=names)
async def test_bad_input_gets_one_line_and_leaves_nothing(serve: Serve, folder: Path, case: Case) -> None:
    serving = await refused(serve, folder, case)
    assert serving.err == [f"error: {case.message.replace('{folder}', str(folder))}"]
    assert "Traceback" not in serving.text


@pytest.mark.parametrize("case", FAULTS, ids=names)
async def test_a_fault_of_the_users_code_has_its_traceback_with_v(serve: Serve, folder: Path, case: Case) -> None:
    serving = await refused(serve, folder, case, "-v")
    *traceback, line = serving.err
    assert line == f"error: {case.message}"
    assert traceback
    assert all(line.startswith(("[Worker:1] ", "[graph] ")) for line in traceback)
    assert f"{folder / case.arguments[0]}.py" in traceback[1] + traceback[0]


async def test_a_busy_port_gets_one_line_and_leaves_nothing(serve: Serve, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        case = Case("a busy port", ["web", "--port", str(port)], "", status=1)
        serving = await refused(serve, folder, case)
    assert serving.err == [
        f"error: port {port} of 127.0.0.1 is in use, so Web cannot listen on it: stop what uses it, or choose "
        "another port with --port or Web.port"
    ]


async def test_a_file_that_may_not_be_read_is_named(serve: Serve, folder: Path) -> None:
    (folder / "unknown.yaml").write_bytes("Worker:\n  name: größe\n".encode("latin-1"))
    serving = await refused(serve, folder, Case("", ["graph", "-f", "unknown.yaml"], ""))
    assert serving.err == ["error: unknown.yaml is not UTF-8 text"]


@pytest.mark.parametrize("arguments", [["--Worker.size=-5"], ["--Worker.size", "-5"], ["--Worker.size", "=", "-5"]])
async def test_a_negative_number_is_a_value_where_it_means_something(
    serve: Serve, folder: Path, arguments: list[str]
) -> None:
    serving = await serve("graph", *arguments)
    await serving.line(r"size -5$")
    await serving.ready()
    assert serving.err == []


async def test_a_key_of_the_section_that_looks_misspelt_is_a_warning_as_it_may_be_the_services_own(
    serve: Serve, folder: Path
) -> None:
    serving = await serve("graph", "--Worker.model_nam=5")
    await serving.ready()
    assert serving.err == ["warning: --Worker.model_nam: this is no parameter of Worker; is 'model_name' meant?"]
