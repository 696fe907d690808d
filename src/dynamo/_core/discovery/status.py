"""What a discovery says of itself: whether what it tells is current, and how renewing its leases goes."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left

logger = logging.getLogger(__name__)

#: Upper bounds of the buckets of the times that a renewal took, in seconds; one more bucket takes the rest.
RENEWAL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class DiscoveryStatus:
    """Belongs to one discovery, which keeps it; `/health` and `/metrics` read it.

    Degraded means that what the discovery tells may be old, because its server or directory cannot be used.
    What was known goes on being served, so it is a warning and not an end.
    """

    def __init__(self) -> None:
        # What is wrong, by whoever found it: a lease, a watch.
        self._troubles: dict[object, str] = {}
        #: When it became degraded, by the loop's clock; None while it is not.
        self.since: float | None = None
        #: How often a lease could not be renewed, and how often one had ended and was granted again.
        self.renew_failures = 0
        self.leases_regranted = 0
        #: How long the renewals took that succeeded.
        self.renewal_buckets: list[int] = [0] * (len(RENEWAL_BUCKETS_S) + 1)
        self.renewal_sum_s: float = 0.0

    @property
    def is_degraded(self) -> bool:
        """Whether what the discovery tells may be old."""
        return bool(self._troubles)

    @property
    def reason(self) -> str:
        """Why it is degraded; empty if it is not."""
        return next(iter(self._troubles.values()), "")

    def degraded_s(self) -> float:
        """For how long it has been degraded; 0 if it is not."""
        return 0.0 if self.since is None else asyncio.get_running_loop().time() - self.since

    def degradation(self) -> dict[str, object] | None:
        """What `/health` says of a discovery that is degraded: why, and for how long; None if it is well."""
        return {"reason": self.reason, "seconds": round(self.degraded_s(), 3)} if self.is_degraded else None

    def note_trouble(self, source: object, reason: str) -> None:
        """Something is wrong, as `source` found; until `source` is well again."""
        was_degraded = self.is_degraded
        self._troubles[source] = reason
        if not was_degraded:
            self.since = asyncio.get_running_loop().time()
            logger.warning("discovery is degraded, and what was known goes on being served: %s", reason)

    def note_well(self, source: object) -> None:
        """Nothing is wrong any more, as `source` found."""
        if source in self._troubles and len(self._troubles) == 1:
            logger.warning("discovery is well again, after %.1f s", self.degraded_s())
        self.forget(source)

    def forget(self, source: object) -> None:
        """`source` is gone, and what it found with it. Whether that is well again nobody knows."""
        self._troubles.pop(source, None)
        if not self._troubles:
            self.since = None

    def note_renewal(self, took_s: float) -> None:
        """A lease was renewed."""
        self.renewal_sum_s += took_s
        self.renewal_buckets[bisect_left(RENEWAL_BUCKETS_S, took_s)] += 1
