"""What the commands end with, each as its help says."""

from __future__ import annotations

OK = 0
#: Something went wrong that the command line could not know.
FAILED = 1
#: The command line or the configuration is wrong.
USAGE = 2
#: Ctrl-C, before the work was done; as a shell says it of a process that SIGINT ended.
INTERRUPTED = 130
