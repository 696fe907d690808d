"""Report what importing `dynamo.runtime` costs a fresh interpreter. Imports nothing else beforehand."""

import sys
import time

began = time.perf_counter()
import dynamo.runtime  # noqa: E402, F401

elapsed_s = time.perf_counter() - began

import json  # noqa: E402
import resource  # noqa: E402

if __name__ == "__main__":
    with open("/proc/self/statm") as statm:
        rss_mb = int(statm.read().split()[1]) * resource.getpagesize() / 1e6
    with open(sys.argv[sys.argv.index("--report") + 1], "w") as report:
        json.dump({"import_ms": elapsed_s * 1e3, "rss_mb": rss_mb}, report)
