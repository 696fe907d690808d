"""The limits between processes fit each other."""

from __future__ import annotations

import re
from pathlib import Path

from dynamo._core import limits

_SIZE = re.compile(r"^([A-Z][A-Z_]*_(?:BYTES|CHARS|ENTRIES|MESSAGES|STREAMS|LEASES|KEYS)_MAX)\b.*=", re.MULTILINE)


def test_every_limit_on_a_size_stands_among_the_limits() -> None:
    core = Path(limits.__file__).parent
    others = (path.read_text() for path in core.rglob("*.py") if path.name != "limits.py")
    assert [name for text in others for name in _SIZE.findall(text)] == []


def test_a_frame_holds_the_largest_message_and_what_was_gathered_before_it() -> None:
    rest = limits.METADATA_BYTES_MAX + 4 * limits.REQUEST_ID_CHARS_MAX + 4096
    assert limits.MESSAGE_BYTES_MAX + limits.FLUSH_BYTES + rest <= limits.FRAME_BYTES_MAX


def test_an_error_of_any_size_fits_into_the_room_of_a_frame() -> None:
    layer = limits.ERROR_MESSAGE_CHARS_MAX + 2 * limits.ERROR_DETAILS_MAX * limits.ERROR_DETAIL_CHARS_MAX
    assert 4 * limits.ERROR_CAUSES_MAX * layer + limits.FLUSH_BYTES <= limits.FRAME_BYTES_MAX


def test_what_leaves_in_one_turn_is_less_than_a_frame_may_hold() -> None:
    of_errors = limits.ERROR_CAUSES_MAX * (1 + limits.ERROR_DETAILS_MAX)
    largest = max(1, limits.METADATA_ENTRIES_MAX, of_errors)
    gathered = limits.FLUSH_BYTES // limits.ITEM_OVERHEAD_BYTES
    assert gathered + largest <= min(limits.FRAME_PARTS_MAX, limits.MESSAGES_MAX)


def test_a_peer_that_is_newer_may_say_more_of_an_error_than_we_do() -> None:
    assert limits.ERROR_LAYERS_READ_MAX >= 2 * limits.ERROR_CAUSES_MAX
    assert limits.ERROR_DETAILS_READ_MAX >= 2 * limits.ERROR_DETAILS_MAX
    assert limits.ERROR_LAYERS_READ_MAX * limits.ERROR_DETAILS_READ_MAX <= limits.FRAME_PARTS_MAX


def test_a_caller_stops_before_its_own_requests_would_get_it_cut() -> None:
    assert limits.UNSENT_REQUESTS_BYTES_MAX + limits.FRAME_BYTES_MAX <= limits.UNREAD_BYTES_MAX
