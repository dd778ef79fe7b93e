"""What a client is told when its request is not answered: OpenAI's error object.

{"error": {"message": …, "type": …, "param": …, "code": …}}
"""

from __future__ import annotations

from typing import Any

from edgepipe.errors import EdgepipeError, ModelError, PromptTooLong, UsageError

INVALID = "invalid_request_error"
SERVER = "server_error"
LIMIT = "rate_limit_error"


class Refusal(EdgepipeError):
    """A request that is not answered, with its HTTP status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self._fields = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"error": dict(self._fields)}


def refusal_of(error: EdgepipeError, *, param: str | None = None) -> Refusal:
    """What a client is told of an error; `param` is what it should change."""
    message = str(error)
    match error:
        case Refusal():
            return error
        case PromptTooLong():
            return Refusal(400, message, param=param, code="context_length_exceeded")
        case UsageError() | ModelError():
            return Refusal(400, message, param=param, code="invalid_value")
        case _:
            return unavailable(message)


def unavailable(message: str, *, retry_after_s: int | None = None) -> Refusal:
    """503: the pipeline cannot answer."""
    return Refusal(
        503, message, kind=SERVER, code="service_unavailable", retry_after_s=retry_after_s
    )
