"""An error with an HTTP status of its maker's choice.

It crosses the network as what it is, the error of a handler, with the status among its details: processes that
know nothing of HTTP pass it on, and whoever answers the client at the end reads it.
"""

from __future__ import annotations

from dynamo._core.errors import Detail, HandlerError, InvalidArgument
from dynamo._core.stability import beta
from dynamo.runtime._arguments import check_text, check_type
from dynamo.runtime._http_status import HTTP_STATUS, STATUS_MAX

MESSAGE_CHARS_MAX = 8192


@beta(since="0.1")
class HttpError(HandlerError):
    """Raise it in a handler, and the client over HTTP is answered with this status and this message.

    `code` is an HTTP status from 0 to 599. One below 400 is that of no error: the client is then told of a fault of
    the server, as after any other exception. Of a `message` the first 8192 characters count, and unlike what other
    exceptions say, the client reads them as they are, also with a status from 500 on. The handler may be in
    this process or behind an endpoint of another one. In a stream of the OpenAI API that has begun, it is the last
    event.

    Raises TypeError for what is no int or no str, and `InvalidArgument` for a code out of range.
    """

    def __init__(self, code: int, message: str) -> None:
        check_type("code", code, int, f"an HTTP status from 0 to {STATUS_MAX}")
        check_text("message", message)
        if not 0 <= code <= STATUS_MAX:
            raise InvalidArgument(f"code={code}: give an HTTP status from 0 to {STATUS_MAX}", parameter="code")
        details: dict[str, Detail] = {"type_name": type(self).__name__, "code": "http_error", HTTP_STATUS: code}
        super().__init__(message[:MESSAGE_CHARS_MAX], **details)
        #: The HTTP status.
        self.status = code

    def __str__(self) -> str:
        return self.message
