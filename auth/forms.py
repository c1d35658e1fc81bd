"""The form of a request to the authorization server, read strictly: each parameter once, from the body alone.

Authlib merges the query string into the form and takes the first of several; a credential in a URL ends in logs, and
two readers of a doubled parameter may take different ones. So both are refused before Authlib sees the request.

RFC 6749 §3.2 and Appendix B
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from authlib.oauth2.rfc6749 import InvalidRequestError
from werkzeug.wrappers import Request

from auth import parameters

FORM = "application/x-www-form-urlencoded"
MAX_BYTES = 32_768
MAX_PARAMETERS = 32


class MethodNotAllowed(InvalidRequestError):  # type: ignore[misc]
    """405: the endpoints take POST."""

    def __init__(self) -> None:
        super().__init__("Use POST", status_code=405)


def read_form(request: Request) -> dict[str, str]:
    """What the endpoint of this path declares and the request gives. Raises InvalidRequestError.

    Parameters without a value are left out, and others ignored, as RFC 6749 §3.2 says.
    """
    if request.method != "POST":
        raise MethodNotAllowed
    if request.query_string:
        raise InvalidRequestError("Send the parameters in the body, not in the URL")
    if request.mimetype != FORM:
        raise InvalidRequestError(f"Content-Type must be {FORM}")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise InvalidRequestError("The form must be UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise InvalidRequestError("Content-Encoding is not supported")
    body = _body(request)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise InvalidRequestError("The body is no well-formed form") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise InvalidRequestError("A parameter is included more than once")
    if any("\0" in value for _, value in pairs):
        raise InvalidRequestError("The body is no well-formed form")
    found: dict[str, str] = parameters.DECLARED[request.path].load({name: value for name, value in pairs if value})
    return found


def for_the_record(path: str, form: dict[str, str]) -> str:
    """The request without anything secret, for its audit record."""
    kept = {name: form[name][:2000] for name in parameters.on_record(path) if name in form}
    return f"POST {path}" + (f"\n{urlencode(kept)}" if kept else "")


def _body(request: Request) -> bytes:
    if (request.content_length or 0) > MAX_BYTES:
        raise InvalidRequestError("The form is too large", status_code=413)
    body = request.stream.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise InvalidRequestError("The form is too large", status_code=413)
    return body
