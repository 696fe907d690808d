"""Report what importing a module costs a fresh interpreter: `dynamo.runtime`, or the one that `--module` names.

Imports nothing else beforehand. Without `--report FILE` it prints.
"""

import sys
import time

_OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))

began = time.perf_counter()
__import__(_OPTIONS.get("--module", "dynamo.runtime"))
elapsed_s = time.perf_counter() - began

import json  # noqa: E402
import resource  # noqa: E402

if __name__ == "__main__":
    with open("/proc/self/statm") as statm:
        rss_mb = int(statm.read().split()[1]) * resource.getpagesize() / 1e6
    cost = json.dumps({"import_ms": elapsed_s * 1e3, "rss_mb": rss_mb})
    if "--report" in _OPTIONS:
        with open(_OPTIONS["--report"], "w") as report:
            report.write(cost)
    else:
        print(cost)
