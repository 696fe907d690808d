"""Replays traces of requests against the real router and simulated engines, and compares policies.

Nothing is served: all of it happens in one process, on a clock of its own, in as little time as it takes to compute.
"""

from dynamo._core.stability import Stability, Tier
from dynamo.replay._figures import Figures, Goals, Spread, WorkerFigures
from dynamo.replay._policies import Policy, read_policies
from dynamo.replay._replay import STREAM_INTERVAL, Replay, ReplayConfig, Report
from dynamo.replay._synthetic import synthetic_trace
from dynamo.replay._trace import TracedRequest, TraceStats, read_trace, trace_stats, write_trace

__all__ = [
    "STREAM_INTERVAL",
    "Figures",
    "Goals",
    "Policy",
    "Replay",
    "ReplayConfig",
    "Report",
    "Spread",
    "TraceStats",
    "TracedRequest",
    "WorkerFigures",
    "read_policies",
    "read_trace",
    "synthetic_trace",
    "trace_stats",
    "write_trace",
]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {"STREAM_INTERVAL": Stability(Tier.BETA, "0.1")}
