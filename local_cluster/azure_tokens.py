"""Why Azure Resource Manager would not believe an access token: missing, unreadable, expired, or for somebody else.

Signatures are not verified: there is nobody here who could have made one. Wording: answers of management.azure.com.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

MISSING = "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
INVALID = "InvalidAuthenticationToken", "The access token is invalid."
CHALLENGE = {
    "WWW-Authenticate": 'Bearer authorization_uri="https://login.windows.net/common", error="invalid_token", '
    'error_description="The authentication failed because of missing or invalid access token."'
}


def distrusted(authorization: str, *, checked: bool, audiences: Sequence[str], now: datetime) -> tuple[str, str] | None:
    """Code and message of the 401; None if the token will do. Unless ``checked``, any token does."""
    scheme, _, token = authorization.partition(" ")
    if scheme != "Bearer" or not token.strip():
        return MISSING
    if not checked:
        return None
    claims = claims_of(token)
    if claims is None or not isinstance(claims.get("exp"), int | float):
        return INVALID
    if claims.get("aud") not in audiences:
        named = ",".join(f"'{audience}'" for audience in audiences)
        told = f"The access token has been obtained for wrong audience or resource '{claims.get('aud')}'."
        return (
            "InvalidAuthenticationTokenAudience",
            f"{told} It should exactly match with one of the allowed audiences {named}.",
        )
    expiry = datetime.fromtimestamp(claims["exp"], UTC)
    if expiry < now:
        told = f"The access token expiry UTC time '{_us(expiry)}' is earlier than current UTC time '{_us(now)}'."
        return "ExpiredAuthenticationToken", told
    return None


def claims_of(token: str) -> Mapping[str, Any] | None:
    """The claims of a JWT; None if it is none."""
    parts = token.strip().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def caller(authorization: str) -> str:
    """Who a token says it is: its object, application or subject; empty if it does not say."""
    claims = claims_of(authorization.partition(" ")[2]) or {}
    return str(next((claims[name] for name in ("oid", "appid", "sub") if claims.get(name)), ""))


def _us(time: datetime) -> str:
    """As .NET writes it: 1/2/2026 3:04:05 PM."""
    hour = time.hour % 12 or 12
    return f"{time.month}/{time.day}/{time.year} {hour}:{time:%M:%S} {'PM' if time.hour >= 12 else 'AM'}"
