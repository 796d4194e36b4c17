"""The keys that name a file with a secret: it is read, and read again when somebody has put another one
there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from adaptive_lora import secret_files
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.errors import RedisUnavailable, RegistryUnavailable, SettingsError
from adaptive_lora.serving import loading
from adaptive_lora.serving.redis import PREFIX, Redis
from adaptive_lora.settings import RedisSettings
from tests.engine.conformance import complete
from tests.engine.remote.fake_worker import FakeWorker, running
from tests.postgres import PostgresServer
from tests.redis_servers import RedisServer, skip_without
from tests.settings.effects import key, settings_of
from tests.settings.test_effect_workers import engine_of


@key("registry.password_file")
def test_each_new_connection_to_the_database_has_the_files_password(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    name = postgres.new_database()
    with psycopg.connect(postgres.url(name), autocommit=True) as admin:

        def password_is(password: str) -> None:
            admin.execute(sql.SQL("ALTER ROLE rotated PASSWORD {}").format(password))

        admin.execute("CREATE ROLE rotated LOGIN")
        password_is("first:/@")
        path.write_text("first:/@\n")
        address = f"postgresql://rotated@127.0.0.1:{postgres.port}/{name}"
        section = {"database_url": address, "password_file": str(path)}
        url = loading.registry_url(settings_of(registry=section))
        with pytest.raises(SettingsError, match=r"not in registry\.database_url"):
            loading.registry_url(settings_of(registry=section | {"database_url": postgres.url(name)}))
        with pytest.raises(SettingsError, match="set that, too"):
            loading.registry_url(settings_of(registry={"password_file": str(path)}))
        database = Database(url, timeout_s=5)
        other = database.patient(6)  # whoever opens the same database reads the same file
        try:
            with database.transaction(), other.transaction():
                password_is("second")
                with pytest.raises(RegistryUnavailable), database.transaction():
                    pass
                path.unlink()
                with pytest.raises(RegistryUnavailable), database.transaction():
                    pass
                path.write_text("second")
                with database.transaction(), other.transaction():
                    pass
        finally:
            database.close()
            other.close()
            admin.execute(b"DROP ROLE rotated")


@key("redis.password_file")
async def test_each_new_connection_to_redis_has_the_files_password(tmp_path: Path) -> None:
    skip_without("redis-server")
    path = tmp_path / "password"
    path.write_text("first:/@\n")
    server = RedisServer("--save", "", config=["user gateway on >first:/@ ~* +@all"])
    url = SecretStr(f"redis://gateway@127.0.0.1:{server.port}/0")
    redis = Redis(RedisSettings(url=url, timeout=5, password_file=path))
    admin = server.client()
    try:
        assert await redis.call(lambda client: client.set(PREFIX + "x", 1))
        admin.execute_command("ACL", "SETUSER", "gateway", "resetpass", ">second")
        assert await redis.call(lambda client: client.get(PREFIX + "x")) == b"1", (
            "a connection that is there stays"
        )
        admin.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(RedisUnavailable):
            await redis.call(lambda client: client.get(PREFIX + "x"))
        path.write_text("second")
        async with asyncio.timeout(60):
            while not redis.is_up:  # noqa: ASYNC110 - the breaker's probe closes it
                await asyncio.sleep(0.01)
        assert await redis.call(lambda client: client.get(PREFIX + "x")) == b"1"
    finally:
        await redis.close()
        admin.close()
        server.close()
    with pytest.raises(SettingsError, match=r"redis\.password_file"):
        Redis(RedisSettings(url=url, password_file=tmp_path / "absent"))


@key("workers.api_key_file")
async def test_requests_carry_the_files_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_files, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "key"
    path.write_text("first\n")
    (worker := FakeWorker()).keys = ["second", "first"]
    async with running(worker):
        engine = engine_of(worker, api_key=None, api_key_file=str(path))
        await engine.start()
        try:
            assert (await complete(engine)).text
            path.write_text("second\n")
            worker.keys = ["second"]
            await worker.restart()
            assert (await complete(engine)).text
            path.write_text("")
            assert (await complete(engine)).text, "a file that cannot be used changes nothing"
        finally:
            await engine.stop()
    with pytest.raises(SettingsError, match=r"workers\.api_key_file"):
        engine_of(worker, api_key=None, api_key_file=str(tmp_path / "absent"))
