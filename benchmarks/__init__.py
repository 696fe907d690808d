"""Side-by-side benchmarks: this implementation and the published one, in turn, on one machine.

Absolute times belong to the machine, ratios to the code: so every figure is the median of several runs
that alternate between the two systems, and every response is checked before it counts. The processes
under test (`rpc_server`, `rpc_client`, `chat_worker`, ...) run unchanged under either system's Python.
"""
