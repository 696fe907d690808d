"""The variables that are no options of a command: what each of them means, and how far it can be relied on.

Those of options are derived from their fields, see `_settings`; whatever else of the environment is read stands here.
A test compares with what the code reads.
"""

from __future__ import annotations

from typing import NamedTuple

from dynamo._core.stability import Tier
from dynamo.runtime._settings import DISCOVERY, EVENT_PLANE, REQUEST_PLANE


class Variable(NamedTuple):
    """A variable of the environment that the system reads."""

    name: str
    about: str
    tier: Tier = Tier.STABLE


VARIABLES = (
    Variable("DYN_DISCOVERY", DISCOVERY),
    Variable("DYN_REQUEST_PLANE", REQUEST_PLANE),
    Variable("DYN_EVENT_PLANE", EVENT_PLANE),
    Variable("DYN_WORK_QUEUE", "where work queues are: embedded:, nats, nats://HOST:PORT; else nats with NATS_SERVER"),
    Variable("DYN_DISCOVERY_BACKEND", "an older name of DYN_DISCOVERY: file, etcd or mem"),
    Variable("DYN_FILE_KV", "the directory of file, where DYN_DISCOVERY is not set"),
    Variable("ETCD_ENDPOINTS", "the servers of etcd, where DYN_DISCOVERY is not set"),
    Variable("NATS_SERVER", "the server of NATS, where a plane says nats without an address"),
    Variable("ETCD_AUTH_USERNAME", "who we are to etcd"),
    Variable("ETCD_AUTH_PASSWORD", "and what proves it"),
    Variable("ETCD_AUTH_CA", "file of the authority that etcd's certificate is checked with"),
    Variable("ETCD_AUTH_CLIENT_CERT", "file of our certificate to etcd"),
    Variable("ETCD_AUTH_CLIENT_KEY", "file of its key"),
    Variable("NATS_AUTH_USERNAME", "who we are to NATS"),
    Variable("NATS_AUTH_PASSWORD", "and what proves it"),
    Variable("NATS_AUTH_TOKEN", "or a token instead of both"),
    Variable("NATS_AUTH_CREDENTIALS_FILE", "or a file of credentials"),
    Variable("NATS_TLS_CA", "file of the authority that NATS's certificate is checked with"),
    Variable("NATS_TLS_CERT", "file of our certificate to NATS"),
    Variable("NATS_TLS_KEY", "file of its key"),
    Variable("DYN_CLUSTER_TOKEN", "the secret that processes of one cluster prove to each other"),
    Variable("DYN_CLUSTER_TOKEN_FILE", "the file that it is in"),
    Variable("DYN_TLS_CERT", "file of a process's certificate"),
    Variable("DYN_TLS_KEY", "file of its key"),
    Variable("DYN_TLS_CA", "file of the authority that the others' certificates are checked with"),
    Variable("DYN_INSECURE", "allow addresses that other machines reach, although nobody is authenticated"),
    Variable("DYN_SYSTEM_PORT", "port of the system server, /live, /health and /metrics; 0 takes a free one"),
    Variable("DYN_SYSTEM_HOST", "address that it listens on, else 127.0.0.1"),
    Variable("DYN_FIRST_ITEM_TIMEOUT_S", "seconds to wait for the first item of a stream; 0 for no limit"),
    Variable("DYN_INTER_ITEM_TIMEOUT_S", "seconds to wait for each later item; 0 for no limit"),
    Variable("DYN_HEALTH_CHECK_ENABLED", "whether canaries are sent"),
    Variable("DYN_CANARY_WAIT_TIME", "seconds without an item after which one is sent"),
    Variable("DYN_HEALTH_CHECK_REQUEST_TIMEOUT", "seconds that its answer may take"),
    Variable("DYN_STRICT_CONTRACTS", "end requests whose answers are no proper ones, for tests", Tier.BETA),
    Variable("DYN_LOG", "levels of the log: info, or info,dynamo.llm=debug"),
    Variable("DYN_LOGGING_JSONL", "write the log as one JSON object a line"),
    Variable("DYN_LOG_USE_LOCAL_TZ", "write times of this place, else of UTC"),
    Variable("DYN_LOGGING_CONFIG_PATH", "file with levels, for what DYN_LOG does not name"),
    Variable("DYN_FRONTEND_URL", "where dynamo doctor and dynamo explain find the frontend", Tier.BETA),
    Variable("DYN_DISABLE_AUTO_GPU_ALLOCATION", "leave the GPUs to the services"),
    Variable("DYN_DEPLOYMENT_ENV", "set where a container has its service's GPUs alone: every worker sees them all"),
    Variable("DYN_DEPLOYMENT_CONFIG", "the whole configuration of a graph, in place of every other source", Tier.BETA),
    Variable("DYNAMO_SERVICE_CONFIG", "sections of configuration as JSON, between the file and the command line"),
    Variable("DYNAMO_PORT", "port of dynamo serve"),
    Variable("DYNAMO_HOST", "address of dynamo serve"),
    Variable("DYNAMO_INSECURE", "the same as DYN_INSECURE, for dynamo serve"),
    Variable("DYNAMO_SERVE_DEPENDS", "services that run elsewhere, as --depends"),
    Variable("DYNAMO_SERVICE_NAME", "the service of a worker, as it is told", Tier.BETA),
    Variable("DYNAMO_RUNNER_MAP", "services that run elsewhere, as a worker is told", Tier.BETA),
    Variable("DYNAMO_IMAGE", "the container image of services, for deployments"),
    Variable("DYNAMO_SYSTEM_APP_ENABLED", "older names of the system server's settings: whether there is one"),
    Variable("DYNAMO_SYSTEM_APP_PORT", "its port"),
    Variable("DYNAMO_SYSTEM_APP_HOST", "and its address"),
)  # fmt: skip
