"""What is checked before a token is believed: each attack by its name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adaptive_lora.errors import SettingsError, Unauthenticated
from adaptive_lora.secret_files import LOOK_EVERY_S
from adaptive_lora.serving.auth.keyring import JWKSKeyring, SecretFileKeyring, SecretKeyring
from adaptive_lora.serving.auth.signing_secret import check_secret
from adaptive_lora.serving.auth.tokens import TokenVerifier
from adaptive_lora.serving.principal import Principal

from .signing import ED_KEYS, NAME, RSA_KEYS, SECRET, claims, jwk, segment, signed, token, write_jwks

LEEWAY_S = 10.0


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=LEEWAY_S)


def with_file(path: Path, algorithm: str) -> TokenVerifier:
    return TokenVerifier(JWKSKeyring(path, algorithm), issuer=NAME, audience=NAME, leeway_s=LEEWAY_S)


def refused(verifier: TokenVerifier, credential: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(credential)
    assert not credential or credential not in caught.value.message
    return caught.value.message


def test_a_tokens_claims_are_its_principals(verifier: TokenVerifier) -> None:
    exp = int(time.time()) + 60
    whole = token(
        sub="ann",
        tenant="acme",
        scope="generate metrics openid",
        agents=["code"],
        jti="t1",
        tier="gold",
        exp=exp,
    )
    expected = Principal(
        "ann", "acme", frozenset({"generate", "metrics"}), frozenset({"code"}), "t1", "gold",
        datetime.fromtimestamp(exp, UTC), "token",
    )  # fmt: skip
    assert verifier.verify(whole) == (expected, exp + LEEWAY_S)
    bare, _ = verifier.verify(token(scope=None))
    assert (bare.tenant, bare.scopes, bare.agents, bare.key_id) == ("default", frozenset(), None, None)
    assert verifier.verify(token(agents=[]))[0].agents == frozenset()


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", None])
def test_no_algorithm_is_no_signature(verifier: TokenVerifier, algorithm: str | None) -> None:
    header = {"alg": algorithm, "typ": "JWT"}
    unsigned = f"{segment(header)}.{segment(claims())}."
    refused(verifier, unsigned)
    refused(verifier, unsigned + token().rpartition(".")[2])


def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    """Algorithm confusion: HS256 with the public key, which everybody has, in its PEM and other forms."""
    key = RSA_KEYS[0]
    verifier = with_file(write_jwks(tmp_path / "jwks.json", jwk(key, "a")), "RS256")
    assert verifier.verify(token(key, "RS256", headers={"kid": "a"}))
    public = key.public_key()
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    spki, pkcs1 = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1
    forms = [public.public_bytes(encoding, form) for encoding in (pem, der) for form in (spki, pkcs1)]
    for secret in (*forms, *(form.strip() for form in forms), json.dumps(jwk(key, "a")).encode()):
        signed = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'a'})}.{segment(claims())}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        refused(verifier, f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_right_secret_with_another_algorithm_is_refused(verifier: TokenVerifier, algorithm: str) -> None:
    refused(verifier, token(SECRET + SECRET, algorithm))


def test_one_algorithm_per_key(tmp_path: Path) -> None:
    """The right key, and another algorithm that it could be used with."""
    verifier = with_file(write_jwks(tmp_path / "jwks.json", jwk(RSA_KEYS[0], "a")), "RS256")
    for algorithm in ("RS384", "RS512", "PS256"):
        refused(verifier, token(RSA_KEYS[0], algorithm, headers={"kid": "a"}))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null", "/dev/null", "file:///dev/null", "http://127.0.0.1/jwks", "a' OR '1'='1", "A",
        "a ", "a\x00", "", "b", None, 0, ["a"], {"a": 1},
    ],
)  # fmt: skip
def test_a_kid_is_a_word_in_a_table(tmp_path: Path, kid: Any) -> None:
    verifier = with_file(write_jwks(tmp_path / "jwks.json", jwk(ED_KEYS[0], "a")), "EdDSA")
    assert verifier.verify(token(ED_KEYS[0], "EdDSA", headers={"kid": "a"}))
    header = {"alg": "EdDSA", "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    signed = f"{segment(header)}.{segment(claims())}"
    signature = base64.urlsafe_b64encode(ED_KEYS[0].sign(signed.encode())).rstrip(b"=").decode()
    refused(verifier, f"{signed}.{signature}")


def test_a_token_signed_by_an_empty_file_is_refused(verifier: TokenVerifier) -> None:
    header = segment({"alg": "HS256", "typ": "JWT", "kid": "/dev/null"})
    signed = f"{header}.{segment(claims())}"
    mac = hmac.new(b"", signed.encode(), hashlib.sha256).digest()
    refused(verifier, f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": jwk(RSA_KEYS[1], "a")},
        {"jku": "https://attacker.example/jwks.json"},
        {"x5u": "https://attacker.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
        {"crit": ["http://example.com/unknown"], "http://example.com/unknown": True},
        {"crit": []},
        {"b64": True},
        {"zip": "DEF"},
        {"typ": "refresh+jwt"},
        {"typ": "id_token"},
        {"typ": "dpop+jwt"},
    ],
)
def test_a_header_that_brings_a_key_or_demands_more_is_refused(
    verifier: TokenVerifier, header: dict[str, Any]
) -> None:
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'} | header)}.{segment(claims())}"
    mac = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    refused(verifier, f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp"])
def test_what_is_required_may_not_be_missing(verifier: TokenVerifier, name: str) -> None:
    refused(verifier, token(**{name: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"}, {"iss": [NAME]}, {"iss": ""}, {"iss": NAME.upper()}, {"iss": f"{NAME} "},
        {"aud": "other"}, {"aud": ["other", "another"]}, {"aud": []}, {"aud": ""}, {"aud": {NAME: 1}},
        {"sub": ""}, {"sub": " "}, {"sub": 7}, {"sub": "a\nb"}, {"sub": "x" * 256},
        {"exp": "soon"}, {"exp": float("inf")}, {"exp": float("nan")}, {"exp": []}, {"exp": 1e300},
        {"nbf": int(time.time()) + 3600}, {"iat": int(time.time()) + 3600}, {"iat": "now"},
        {"tenant": "Acme"}, {"tenant": "a/b"}, {"tenant": 1}, {"tenant": ""}, {"tier": "../gold"},
        {"scope": ["admin"]}, {"scope": {"admin": 1}}, {"agents": "code"}, {"agents": ["../code"]},
        {"agents": [1]}, {"agents": {"code": 1}}, {"agents": ["x"] * 257}, {"jti": 1}, {"jti": ""},
    ],
)  # fmt: skip
def test_wrong_claims_are_refused(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims(**changes))}"
    mac = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    refused(verifier, f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


def test_one_audience_of_several_is_enough(verifier: TokenVerifier) -> None:
    assert verifier.verify(token(aud=["other", NAME]))


@pytest.mark.parametrize("claim", ["token_use", "token_type", "type", "typ"])
@pytest.mark.parametrize("kind", ["refresh", "Refresh", "id", "ID", "Offline", "", None, 1])
def test_a_refresh_token_is_no_access_token(verifier: TokenVerifier, claim: str, kind: Any) -> None:
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims() | {claim: kind})}"
    mac = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    refused(verifier, f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")
    assert verifier.verify(token(**{claim: "access"}))
    assert verifier.verify(token(**{claim: "Bearer"}))
    assert verifier.verify(token(headers={"typ": "at+jwt"}))


@pytest.mark.parametrize(
    ("claim", "offset_s", "is_good"),
    [
        ("exp", 5, True), ("exp", -5, True), ("exp", -15, False), ("exp", -86_400, False),
        ("nbf", -5, True), ("nbf", 5, True), ("nbf", 15, False), ("iat", 5, True), ("iat", 15, False),
    ],
)  # fmt: skip
def test_clocks_may_differ_by_the_leeway(
    verifier: TokenVerifier, claim: str, offset_s: int, is_good: bool
) -> None:
    credential = token(**{claim: int(time.time()) + offset_s})
    if is_good:
        assert verifier.verify(credential)
    else:
        refused(verifier, credential)


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t[:-1], lambda t: t + "A", lambda t: t.replace(".", ".."), lambda t: t.rpartition(".")[0],
        lambda t: t.rpartition(".")[0] + ".", lambda t: t + "=", lambda t: t + "\n", lambda t: "." + t,
        lambda t: t.swapcase(), lambda t: t.encode().hex(), lambda _: "..", lambda _: "x.y.z", lambda _: "",
        lambda _: "x" * 8_193,
        lambda t: segment([1]) + "." + t.split(".", 1)[1], lambda _: "é.é.é",
        lambda _: f"{segment({'alg': 'HS256'})}." + "W" * 4_000 + ".AAAA",
    ],
)  # fmt: skip
def test_a_damaged_token_is_refused(verifier: TokenVerifier, damage: Any) -> None:
    refused(verifier, damage(token()))


def test_nested_json_does_not_exhaust_the_stack(verifier: TokenVerifier) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 3_000 + b"]" * 3_000).rstrip(b"=").decode()
    refused(verifier, f"{deep}.{deep[:100]}.AAAA")


def test_another_secret_is_refused(verifier: TokenVerifier, random_secret: str) -> None:
    refused(verifier, token(random_secret))


# Secrets


@pytest.mark.parametrize(
    "secret",
    [
        "", "short", "x" * 31, "é" * 15,
        "change-me-change-me-change-me-change-me", "CHANGE_THIS_TO_SOMETHING_LONG_AND_RANDOM_1",
        "your-256-bit-secret-your-256-bit-secret", "your_jwt_secret_key_that_is_at_least_32", "a" * 64,
        "ab" * 32, "<put a random value of 32 bytes here, please>", "super-secret-key-for-development-only",
        "secretsecretsecretsecretsecretsecret", "0123456789abcdef0123456789abcdef",
        "placeholder-0a9b8c7d6e5f4a3b2c1d", "this-is-an-example-value-of-a-secret-9f8e",
        "not-a-secret-do-not-use-in-production-1", "passwordpasswordpasswordpassword",
        "TODO: take the one of the vault, 1a2b3c4d", "dummy-dummy-dummy-dummy-dummy-dummy-1",
        "insert_a_long_one_here_before_production",
        "replace-with-output-of-openssl-rand-hex-32", "my-secret-with-some-more-letters-in-it",
    ],
)  # fmt: skip
def test_a_secret_that_can_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_secret(secret)
    assert not secret or secret not in caught.value.message


def test_random_secrets_are_taken() -> None:
    """Of the two usual kinds; a false alarm would stop a server from starting. The same ones each time: among
    so many one has a short word in it."""
    draw = random.Random(0)
    drawn = [draw.randbytes(48) for _ in range(6_000)]
    texts = [base64.urlsafe_b64encode(each).decode() for each in drawn]
    assert any("todo" in text.lower() for text in texts)
    for text, each in zip(texts, drawn, strict=True):
        check_secret(text)
        check_secret(each[:32].hex())


def secret_file(path: Path, *secrets: str) -> Path:
    """As operators should: the whole file at once."""
    draft = path.with_suffix(".draft")
    draft.write_text("".join(f"{secret}\n" for secret in secrets))
    return draft.replace(path)


def test_secrets_rotate_with_overlap(tmp_path: Path) -> None:
    old, new = (secrets.token_urlsafe(48) for _ in range(2))
    path = secret_file(tmp_path / "secret", old)
    now = 0.0
    keyring = SecretFileKeyring(path, clock=lambda: now)
    verifier = TokenVerifier(keyring, issuer=NAME, audience=NAME, leeway_s=0)

    def good() -> list[bool]:
        nonlocal now
        now += LOOK_EVERY_S
        return [_is_good(verifier, token(secret)) for secret in (old, new)]

    assert good() == [True, False]
    secret_file(path, new, old)
    assert good() == [True, True]
    assert keyring.keys(None)[0] == new.encode(), "the first signs"
    secret_file(path, new)
    assert good() == [False, True]
    assert keyring.generation == 2


def _is_good(verifier: TokenVerifier, credential: str) -> bool:
    try:
        verifier.verify(credential)
    except Unauthenticated:
        return False
    return True


def test_every_secret_is_checked_as_the_only_one_would_be(tmp_path: Path, random_secret: str) -> None:
    """Forged, expired, for others: with the second secret as with the first."""
    path = secret_file(tmp_path / "secret", random_secret, SECRET)
    verifier = TokenVerifier(SecretFileKeyring(path), issuer=NAME, audience=NAME, leeway_s=0)
    assert verifier.verify(token())
    for credential in (token(aud="other"), token(token_use="refresh"), token(secrets.token_urlsafe(48))):
        refused(verifier, credential)
    assert "expired" in refused(verifier, token(exp=int(time.time()) - 60))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "0 secrets"),
        (["", " "], "0 secrets"),
        ([secrets.token_hex(32) for _ in range(5)], "5 secrets"),
        ([secrets.token_hex(32), "short"], "32 are needed"),
        ([secrets.token_hex(32), "change-me-" * 5], "placeholder"),
    ],
)
def test_a_file_of_unsafe_secrets_is_refused_at_start_and_ignored_later(
    tmp_path: Path, lines: list[str], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = secret_file(tmp_path / "secret", *lines)
    with pytest.raises(SettingsError, match=says):
        SecretFileKeyring(path)
    now = 0.0
    secret_file(path, SECRET)
    verifier = TokenVerifier(
        SecretFileKeyring(path, clock=lambda: now), issuer=NAME, audience=NAME, leeway_s=0
    )
    secret_file(path, *lines)
    for _ in range(3):
        now += LOOK_EVERY_S
        assert verifier.verify(token())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1, "one line per change of the file"
    assert not [line for line in lines if line.strip() and line in errors[0]]


def test_the_claim_of_agents_may_be_required() -> None:
    strict = TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=0, require_agents=True)
    assert strict.verify(token(agents=[]))[0].agents == frozenset()
    refused(strict, token())
    refused(strict, signed({"alg": "HS256", "typ": "JWT"}, claims() | {"agents": None}))


# JWKS files


@pytest.mark.parametrize(("algorithm", "keys"), [("RS256", RSA_KEYS), ("EdDSA", ED_KEYS)])
def test_keys_rotate_with_overlap(tmp_path: Path, algorithm: str, keys: list[Any]) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk(keys[0], "old"))
    now = 0.0
    keyring = JWKSKeyring(path, algorithm, clock=lambda: now)
    verifier = TokenVerifier(keyring, issuer=NAME, audience=NAME, leeway_s=0)
    old = token(keys[0], algorithm, headers={"kid": "old"})
    new = token(keys[1], algorithm, headers={"kid": "new"})

    def good() -> list[bool]:
        nonlocal now
        now += LOOK_EVERY_S
        results = []
        for credential in (old, new):
            try:
                verifier.verify(credential)
            except Unauthenticated:
                results.append(False)
            else:
                results.append(True)
        return results

    assert good() == [True, False]
    write_jwks(path, jwk(keys[0], "old"), jwk(keys[1], "new"))
    assert good() == [True, True]
    write_jwks(path, jwk(keys[1], "new"))
    assert good() == [False, True]
    assert keyring.generation == 2


def test_a_file_that_cannot_be_used_leaves_the_keys_that_were_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk(ED_KEYS[0], "a"))
    now = 0.0
    keyring = JWKSKeyring(path, "EdDSA", clock=lambda: now)
    verifier = TokenVerifier(keyring, issuer=NAME, audience=NAME, leeway_s=0)
    good = token(ED_KEYS[0], "EdDSA", headers={"kid": "a"})
    for text in ('{"keys": [', "[]", '{"keys": []}', None):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        for _ in range(3):
            now += LOOK_EVERY_S
            verifier.verify(good)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 4, "one line per change of the file"
    write_jwks(path, jwk(ED_KEYS[1], "b"))
    now += LOOK_EVERY_S
    refused(verifier, good)


def test_keys_for_other_purposes_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    others = [
        jwk(RSA_KEYS[1], "enc", use="enc"),
        jwk(RSA_KEYS[1], "pss", alg="PS256"),
        jwk(ED_KEYS[0], "ed"),
        {"kty": "oct", "kid": "oct", "k": segment("secret")},
        {"kty": "EC", "kid": "ec"},
    ]
    verifier = with_file(write_jwks(path, jwk(RSA_KEYS[0], "a"), *others), "RS256")
    assert verifier.verify(token(RSA_KEYS[0], "RS256", headers={"kid": "a"}))
    for kid in ("enc", "pss", "ed", "oct", "ec"):
        assert not verifier.keyring.keys(kid)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([], "no RS256 key"),
        ([jwk(ED_KEYS[0], "ed")], "no RS256 key"),
        ([{k: v for k, v in jwk(RSA_KEYS[0], "a").items() if k != "kid"}], "kid of its own"),
        ([jwk(RSA_KEYS[0], "a"), jwk(RSA_KEYS[1], "a")], "kid of its own"),
        ([jwk(RSA_KEYS[0], "a", d="AQAB")], "private key"),
        ([jwk(RSA_KEYS[0], "a", n="!")], "cannot be read"),
        ([jwk(rsa.generate_private_key(65537, 1024), "a")], "1024 bits"),
    ],
)
def test_an_unsafe_file_is_refused_at_start(tmp_path: Path, keys: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        JWKSKeyring(write_jwks(tmp_path / "jwks.json", *keys), "RS256")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.json"):
        JWKSKeyring(tmp_path / "absent.json", "RS256")


def test_what_pyjwt_knows_of_attacks_is_in_this_version() -> None:
    major, minor = map(int, jwt.__version__.split(".")[:2])
    assert (major, minor) >= (2, 15)
