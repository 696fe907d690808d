"""What was wrong with KV events: counted by reason, and told in the log at most once a minute for each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum

from dynamo._core.prefix_index import Applied

TELL_EVERY_S = 60.0


class Fault(StrEnum):
    """Why an event, or some of its blocks, had no effect."""

    #: No event, or one with hashes that are none.
    MALFORMED = "malformed"
    #: It continues a block that nobody stored.
    UNKNOWN_PARENT = "unknown_parent"
    #: It removes a block that nobody stored.
    UNKNOWN_BLOCK = "unknown_block"
    #: A block with another number of tokens than the block size.
    SHORT_BLOCK = "short_block"
    #: A publisher or engine with another block size.
    BLOCK_SIZE = "block_size"
    #: Of a start of the publisher that is over.
    WRONG_EPOCH = "wrong_epoch"
    #: Events have come twice.
    DUPLICATE = "duplicate"
    #: Events were lost on the way, and are asked for.
    MISSED = "missed"
    #: The event plane told that something was lost, or could not be read.
    GAP = "gap"
    #: Of nobody whom discovery knows.
    UNLISTED = "unlisted"
    #: Two processes tell of one worker.
    CONTESTED = "contested"
    #: There is no room in the index.
    FULL = "full"
    #: The event plane did not take it; it is sent when it does.
    NOT_SENT = "not_sent"
    #: Events came faster than they could be taken, and the cache counts as empty.
    OVERFLOW = "overflow"
    #: A worker could not be asked what it holds; it is asked again.
    NOT_ANSWERED = "not_answered"
    #: Of memory that is not the one that the engine computes in.
    OTHER_MEDIUM = "other_medium"
    #: Of layers that do not keep all tokens.
    OTHER_GROUP = "other_group"
    #: Blocks with images or other media, which cannot be named by their tokens.
    MEDIA = "media"


#: Those that are found where events are published, and not by who listens to them.
OF_PUBLISHERS = frozenset({Fault.NOT_SENT, Fault.OVERFLOW})


class Faults:
    """Counts faults of one kind of work."""

    def __init__(self, logger: logging.Logger, who: str, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._who = who
        self._clock = clock
        self._counts: Counter[Fault] = Counter()
        self._tell_at: dict[Fault, float] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each has happened."""
        return {str(fault): count for fault, count in self._counts.items()}

    def note(self, fault: Fault, count: int, what: str, level: int = logging.WARNING) -> None:
        """Count a fault, if there is one; `what` says what happened and what becomes of it."""
        if not count:
            return
        self._counts[fault] += count
        now = self._clock()
        if now >= self._tell_at.get(fault, now):
            self._tell_at[fault] = now + TELL_EVERY_S
            self._logger.log(level, "%s: %s (%s, %d so far)", self._who, what, fault, self._counts[fault])

    def note_unapplied(self, applied: Applied) -> None:
        """Count what an index did not take of an event."""
        self.note(Fault.UNKNOWN_PARENT, applied.unknown_parent, "blocks behind one that is not known are left out")
        self.note(Fault.UNKNOWN_BLOCK, applied.unknown_blocks, "blocks were removed that are not known")
        self.note(Fault.MALFORMED, applied.malformed, "blocks with hashes that are none are left out")
        self.note(Fault.FULL, applied.full, "blocks are left out: the index is full")
