from dynamo.entrypoint._args import EngineType as EngineType
from dynamo.entrypoint._args import EntrypointArgs as EntrypointArgs
from dynamo.entrypoint._inputs import run_input as run_input
from dynamo.entrypoint._make import EngineConfig as EngineConfig
from dynamo.entrypoint._make import make_engine as make_engine
from dynamo.frontend._http_service import HttpService as HttpService
