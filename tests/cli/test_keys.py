"""`keys` and `token`, on a database and through a server; and the key that commands send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

from adaptive_lora.cli import app
from adaptive_lora.serving.auth import JWTAuth
from tests.serving.auth.signing import SECRET


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text(
        f"model: {{engine: fake}}\nstorage: {{path: {tmp_path}}}\nauth: {{jwt_secret: {SECRET}}}\n"
    )
    return str(path)


def invoke(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


def listed(config: str) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(invoke("keys", "list", "--json", "-c", config).stdout)
    return keys


def test_a_key_is_minted_listed_and_revoked(config: str) -> None:
    options = ["-s", "generate", "-s", "metrics", "-a", "code", "--tenant", "acme", "--tier", "gold"]
    minted = invoke("keys", "mint", "ci", *options, "-c", config)
    assert minted.exit_code == 0
    key = minted.stdout.strip()
    assert key.startswith("alk_")
    (found,) = listed(config)
    assert key.split("_")[1] == found["id"]
    assert (found["name"], found["tenant"], found["tier"]) == ("ci", "acme", "gold")
    assert (found["scopes"], found["agents"]) == (["generate", "metrics"], ["code"])
    assert found["expires_at"] is not None
    shown = invoke("keys", "list", "-c", config).output
    assert key not in shown
    assert found["id"] in shown, "whole, also in a narrow window: `revoke` asks for it"
    assert "…" not in shown
    assert invoke("keys", "revoke", found["id"], "-c", config).exit_code == 0
    assert listed(config)[0]["revoked_at"] is not None
    assert "revoked" in invoke("keys", "list", "-c", config).stdout


def test_a_key_may_last_for_ever_if_one_says_so(config: str) -> None:
    minted = json.loads(invoke("keys", "mint", "ci", "--never-expires", "--json", "-c", config).stdout)
    assert (minted["expires_at"], minted["scopes"]) == (None, ["generate"])
    assert invoke("keys", "mint", "ci", "--never-expires", "--days", "1", "-c", config).exit_code == 1


def test_an_unknown_scope_mints_nothing(config: str) -> None:
    assert invoke("keys", "mint", "ci", "-s", "root", "-c", config).exit_code == 1
    assert listed(config) == []


def test_a_token_is_one_that_the_server_accepts(config: str) -> None:
    options = ["-s", "generate", "-a", "code", "--tenant", "acme", "--minutes", "5", "--json"]
    minted = json.loads(invoke("token", "mint", "ann", *options, "-c", config).stdout)
    principal, _ = JWTAuth(SECRET).verifier.verify(minted["token"])
    assert (principal.subject, principal.tenant, principal.key_id) == ("ann", "acme", minted["jti"])
    assert (principal.scopes, principal.agents) == ({"generate"}, {"code"})
    assert invoke("token", "revoke", minted["jti"], "--tenant", "acme", "-c", config).exit_code == 0


def test_a_token_needs_a_secret(config: str, tmp_path: Path) -> None:
    for text in ("{}", "auth: {algorithm: EdDSA}", f"auth: {{jwt_secret: {SECRET[:20]}}}"):
        path = tmp_path / "other.yaml"
        path.write_text(text)
        assert invoke("token", "mint", "ann", "-c", str(path)).exit_code == 1
    assert invoke("token", "mint", "a\nb", "-c", config).exit_code == 1, "what no server would accept"


class Recorder(BaseHTTPRequestHandler):
    """Answers everything alike, and keeps what it was asked."""

    seen: ClassVar[list[tuple[str, str | None, Any]]] = []
    answer: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((f"{self.command} {self.path}", self.headers.get("authorization"), body))
        content = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_DELETE = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Recorder.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


GENERATED = {
    "adapter": "code", "version": "3f9c2a000001", "confidence": 1.0, "finish_reason": "stop",
    "latency_ms": 1.0, "usage": {"completion_tokens": 1}, "text": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["adapters", "status", "--json", "--server"], {"adapters": []}),
        (["adapters", "history", "code", "--json", "--server"], {"entries": []}),
        (["keys", "list", "--json", "--server"], {"keys": []}),
        (["keys", "revoke", "0" * 12, "--server"], {}),
        (["token", "revoke", "t1", "--server"], {}),
        (["generate", "hello", "--json", "--url"], GENERATED),
    ],
)
def test_commands_send_the_key(server: str, arguments: list[str], answer: dict[str, Any]) -> None:
    Recorder.answer = answer
    command = [*arguments, server]
    assert invoke(*command).exit_code == 0
    assert invoke(*command, ADAPTIVE_LORA_API_KEY="alk_from_environment").exit_code == 0
    assert invoke("--api-key", "alk_flag", *command, ADAPTIVE_LORA_API_KEY="alk_env").exit_code == 0
    expected = [None, "Bearer alk_from_environment", "Bearer alk_flag"]
    assert [authorization for _, authorization, _ in Recorder.seen] == expected


def test_minting_through_a_server_says_what_is_wanted(server: str) -> None:
    key = {"id": "0" * 12, "name": "ci", "tenant": "acme", "scopes": ["generate"], "agents": None}
    Recorder.answer = key | {"key": "alk_x", "expires_at": None}
    minted = invoke("keys", "mint", "ci", "-a", "code", "--days", "7", "--server", server)
    assert minted.stdout.strip() == "alk_x"
    ((asked, _, body),) = Recorder.seen
    assert asked == "POST /keys"
    assert json.loads(body) == {
        "name": "ci", "scopes": ["generate"], "agents": ["code"], "tenant": None, "tier": None,
        "expires_in_days": 7,
    }  # fmt: skip
