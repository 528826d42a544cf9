"""Requests that are not served: one sentence as JSON, and the HTTP status that says it to machines."""

from starlette.responses import JSONResponse


class Refused(ValueError):
    """A request that is not served, with its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def error(status: int, sentence: str) -> JSONResponse:
    """Return the answer that says what is wrong."""
    return JSONResponse({"error": sentence}, status, headers={"Retry-After": "1"} if status == 503 else None)
