"""Tokens by RFC 8725: what is not exactly right is refused, always in the same words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect_trainyard.api.auth import AUDIENCE, ISSUER, Grant, Tokens, load_key
from prefect_trainyard.schemas.errors import NotAuthenticated

KEY = bytes(range(32))
NOW = int(time.time())
GRANT = Grant(user_id=uuid4(), org="acme", key_id=uuid4())


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(GRANT.user_id),
        "org": GRANT.org,
        "key": str(GRANT.key_id),
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 3600,
        "jti": "1",
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def signed(
    header: dict[str, Any] | None = None,
    payload: object = None,
    key: bytes = KEY,
    digest: Callable[..., Any] = hashlib.sha256,
    **changes: Any,
) -> str:
    """Return a token made by hand, as an attacker makes it."""
    header = {"alg": "HS256", "typ": "at+jwt"} if header is None else header
    body = claims(**changes) if payload is None else payload
    head = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    return f"{head}.{b64(hmac.new(key, head.encode(), digest).digest())}"


def with_header(**fields: Any) -> str:
    return signed({"alg": "HS256", "typ": "at+jwt", **fields})


def unsigned(alg: str) -> str:
    return signed({"alg": alg, "typ": "at+jwt"}).rsplit(".", 1)[0] + "."


def tampered() -> str:
    head, _, signature = signed().split(".")
    return f"{head}.{b64(json.dumps(claims(org='rival')).encode())}.{signature}"


REFUSED = {
    "empty": "",
    "no token at all": "nonsense",
    "two parts": "a.b",
    "five parts": "a.b.c.d.e",
    "not base64": "§§.§§.§§",
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "alg nOnE with a signature": with_header(alg="nOnE"),
    "no alg": signed({"typ": "at+jwt"}),
    "alg of another family": with_header(alg="RS256"),
    "alg HS384": signed({"alg": "HS384", "typ": "at+jwt"}, digest=hashlib.sha384),
    "alg HS512": signed({"alg": "HS512", "typ": "at+jwt"}, digest=hashlib.sha512),
    "alg is a list": with_header(alg=["HS256"]),
    "other key": signed(key=b"k" * 32),
    "empty key": signed(key=b""),
    "signature cut off": signed()[:-5],
    "no signature": unsigned("HS256"),
    "payload changed": tampered(),
    "typ missing": signed({"alg": "HS256"}),
    "typ of another kind": with_header(typ="JWT"),
    "jwk in the header": with_header(jwk={"kty": "oct", "k": b64(KEY)}),
    "jku in the header": with_header(jku="http://127.0.0.1/keys"),
    "x5u in the header": with_header(x5u="file:///etc/passwd"),
    "crit in the header": with_header(crit=["exp"]),
    "kid is a path that is not critical": signed({"alg": "HS256", "typ": "at+jwt", "kid": "../../dev/null"}, key=b""),
    "kid is SQL": signed({"alg": "HS256", "typ": "at+jwt", "kid": "x' UNION SELECT 'key' --"}, key=b"key" * 11),
    "public key as secret": signed(
        {"alg": "HS256", "typ": "at+jwt"}, key=b"-----BEGIN PUBLIC KEY-----\nMFkw" + b"x" * 40
    ),
    "b64 switched off": with_header(b64=False, crit=["b64"]),
    "zip in the header": with_header(zip="DEF"),
    "x5c in the header": with_header(x5c=["MIIB"]),
    "kid is a path": with_header(kid="../../etc/passwd", crit=["kid"]),
    "payload is a list": signed(payload=[1]),
    "payload is a string": signed(payload="admin"),
    "iss missing": signed(iss=...),
    "iss of somebody else": signed(iss="https://evil"),
    "iss is a list": signed(iss=[ISSUER]),
    "aud missing": signed(aud=...),
    "aud of a download link": signed(aud="trainyard-download"),
    "aud is a list": signed(aud=[AUDIENCE, "x"]),
    "sub missing": signed(sub=...),
    "sub is no uuid": signed(sub="' OR 1=1 --"),
    "sub is a number": signed(sub=1),
    "org missing": signed(org=...),
    "org is empty": signed(org=""),
    "org is a list": signed(org=["acme"]),
    "key id is no uuid": signed(payload=claims(key="x")),
    "jti missing": signed(jti=...),
    "exp missing": signed(exp=...),
    "exp is text": signed(exp=str(NOW + 3600)),
    "exp is a float": signed(exp=NOW + 3600.5),
    "exp is true": signed(exp=True),
    "exp is far away": signed(exp=NOW + 90_000),
    "exp is endless": signed(exp=10**30),
    "exp before iat": signed(exp=NOW - 1),
    "iat missing": signed(iat=...),
    "iat in the future": signed(iat=NOW + 36_000, exp=NOW + 37_000),
    "nbf missing": signed(nbf=...),
    "nbf in the future": signed(nbf=NOW + 36_000, exp=NOW + 37_000),
    "nbf is negative": signed(nbf=-1),
    "too long": signed(payload=claims(jti="x" * 5000)),
}


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_a_token_that_is_not_exactly_right(token: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        Tokens(KEY).verify(token)
    assert refused.value.message == "The token is not valid."


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
def test_facade_answers_401_to_all_of_them_alike(facade, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".strip().encode()}
    answer = httpx.get(f"{facade.url}/api/v1/orgs/acme/datasets", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error_code"] == 1


def test_accepts_its_own_tokens_and_the_hand_made_equal() -> None:
    tokens = Tokens(KEY)
    assert tokens.verify(tokens.issue(GRANT)) == GRANT
    assert tokens.verify(signed()) == GRANT


def test_tells_an_expired_token_from_a_wrong_one_after_the_skew() -> None:
    late = Tokens(KEY, now=lambda: NOW + 3600 + 61)
    with pytest.raises(NotAuthenticated, match="expired"):
        late.verify(signed())
    assert Tokens(KEY, now=lambda: NOW + 3600 + 59).verify(signed()) == GRANT


def test_allows_a_clock_that_is_a_minute_behind() -> None:
    assert Tokens(KEY, now=lambda: NOW - 59).verify(signed()) == GRANT
    with pytest.raises(NotAuthenticated):
        Tokens(KEY, now=lambda: NOW - 61).verify(signed())


def test_token_fits_into_the_config_file_of_the_client() -> None:
    token = Tokens(KEY).issue(GRANT)
    assert not set(token) & set("%\n\r \"'")


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 31])
def test_refuses_a_weak_key(key: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Tokens(key)


def test_refuses_a_lifetime_above_a_day() -> None:
    with pytest.raises(ValueError, match="86400"):
        Tokens(KEY, lifetime_s=86_401)


def test_key_file_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "home" / "token.key"
    key = load_key(file)
    assert len(key) == 32 and load_key(file) == key
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"changethis", b"\0" * 32, b"changeme" * 3])
def test_start_refuses_a_default_or_short_key_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token.key").write_bytes(content)
    with pytest.raises(ValueError, match="too short or too regular"):
        load_key(tmp_path / "token.key")
