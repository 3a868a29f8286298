"""What the server does not do, in one sentence, with the HTTP status that says whose turn it is."""

from __future__ import annotations

from calotype.errors import CalotypeError


class Refusal(CalotypeError):  # noqa: N818
    """status and headers are those of the answer; `kind` is a word for programs."""

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = headers or {}


def payload(path: str, status: int, kind: str, message: str) -> dict[str, object]:
    """The body of a refusal, in the dialect of the path that was asked."""
    if path.startswith("/sdapi/"):
        return {"error": kind, "detail": message, "body": "", "errors": message}
    # OpenAI's form, which the native interface shares
    family = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": family, "code": kind, "param": None}}
