"""docs/how-to/tls.md: its nginx configuration, in front of a real gateway, with certificates by openssl."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.errors import RegistryUnavailable
from tests.deploy.monitoring_files import RULE_FILES, yaml_of
from tests.deploy.programs import Program, skip_without
from tests.deploy.runbooks import typed
from tests.engine.remote.certificates import certificate
from tests.ports import free_port
from tests.postgres import PostgresServer
from tests.project.doc_blocks import block_with
from tests.serving.gateway_process import GatewayProcess

PAGE = "docs/how-to/tls.md"
DOMAIN = "api.your-domain.com"
DAY_S = 86_400
ONE, OTHER = "127.0.0.2", "127.0.0.3"
"""Callers' addresses; the proxy's own is 127.0.0.1."""
TOKEN_S = 0.2

MAIN = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/adaptive-lora.conf;
}}
"""


def made(folder: Path, days: int) -> None:
    """A certificate and its key in `folder`, by the page's command."""
    folder.mkdir(exist_ok=True)
    text = block_with(PAGE, "openssl req").text
    assert "-days 90" in text
    text = text.replace("-days 90", f"-days {days}").replace(f"DNS:{DOMAIN}", f"DNS:{DOMAIN},DNS:localhost")
    typed(text, {"TLS": str(folder)})


@dataclass
class Site:
    folder: Path
    gateway: GatewayProcess
    port: int
    plain_port: int

    @property
    def tls(self) -> Path:
        return self.folder / "tls"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def typed(self, words: str, **environment: str) -> str:
        """The page's block that has these words; addresses are ours."""
        text = block_with(PAGE, words).text
        text = text.replace(f"https://{DOMAIN}", self.url).replace(f"{DOMAIN}:443", f"localhost:{self.port}")
        nginx = f"{nginx_program()} -q -c {self.folder}/nginx.conf -e {self.folder}/error.log"
        text = re.sub(r"\bnginx (?=-)", f"{nginx} ", text)
        return typed(text, {"TLS": str(self.tls), **environment})

    def client(self, address: str) -> httpx.AsyncClient:
        """Trusts every certificate that there has been."""
        context = ssl.create_default_context()
        for file in self.folder.glob("trusted-*.pem"):
            context.load_verify_locations(file)
        transport = httpx.AsyncHTTPTransport(verify=context, local_address=address)
        return httpx.AsyncClient(base_url=self.url, transport=transport, timeout=60)

    def trust(self, name: str, certificate: Path) -> None:
        shutil.copy(certificate, self.folder / f"trusted-{name}.pem")


def nginx_program() -> str:
    """Debian's is where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or "nginx"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not Path(nginx_program()).is_absolute():
        skip_without("nginx")
    folder = tmp_path_factory.mktemp("tls")
    made(folder / "tls", 2)
    with ExitStack() as stack:
        gateway = GatewayProcess(
            token_s=TOKEN_S,
            api={"trusted_proxies": ["127.0.0.1"], "allowed_hosts": ["localhost"]},
            rate_limiting={"enabled": True, "requests_per_minute": 1, "burst_size": 5},
            storage={"path": folder / "state"},
        )
        stack.enter_context(closing(gateway))
        site = Site(folder, gateway, free_port(), free_port())
        site.trust("first", site.tls / "fullchain.pem")
        (folder / "adaptive-lora.conf").write_text(configuration(site))
        user = "user root;" if os.getuid() == 0 else ""
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
        with httpx.Client(base_url=gateway.url, headers={"host": "localhost"}) as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.05)
        nginx = Program(folder, site.port, nginx_program(), "-c", str(folder / "nginx.conf"))
        stack.enter_context(closing(nginx))
        yield site


def configuration(site: Site) -> str:
    """The page's, with our addresses and paths."""
    text = block_with(PAGE, "proxy_pass").text
    for ours, theirs in (
        (f"127.0.0.1:{site.gateway.port}", "127.0.0.1:8000"),
        (f"listen 127.0.0.1:{site.port} ssl http2", "listen 443 ssl http2"),
        (f"listen 127.0.0.1:{site.plain_port}", "listen 80"),
        (str(site.tls), "/etc/adaptive-lora/tls"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    return text.replace(DOMAIN, "localhost")


async def test_callers_have_their_own_address_whatever_they_say(site: Site) -> None:
    """By their limits: each of them has five requests, and no more by naming another address."""
    for address in (ONE, OTHER):
        async with site.client(address) as client:
            codes = [
                (await client.get("/adapters", headers={"x-forwarded-for": f"192.0.2.{i}"})).status_code
                for i in range(7)
            ]
        assert codes == [200] * 5 + [429] * 2, address


async def test_a_stream_arrives_while_it_is_generated(site: Site) -> None:
    """The gateway writes its line about a request when the request has ended."""
    body = {"prompt": "x", "max_tokens": 8, "stream": True, "ignore_eos": True}

    def n_ended() -> int:
        return sum(json.loads(line).get("route") == "/generate" for line in site.gateway.log().splitlines())

    before = n_ended()
    async with site.client("127.0.0.4") as client, client.stream("POST", "/generate", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        await anext(lines)
        assert n_ended() == before, "nothing arrived before the whole answer was there"
        rest = [line async for line in lines]
    assert sum(line.startswith("data:") for line in rest) >= 8
    async with asyncio.timeout(60):
        while n_ended() == before:  # noqa: ASYNC110 - a process's log
            await asyncio.sleep(0.02)


async def test_who_speaks_plain_http_is_sent_on(site: Site) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://localhost:{site.plain_port}/live?x=1")
    assert (answer.status_code, answer.headers["location"]) == (301, "https://localhost/live?x=1")
    async with site.client("127.0.0.5") as client:
        answer = await client.get("/live")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        large = {"authorization": "Bearer " + "a" * 8_192}
        assert (await client.get("/live", headers=large)).status_code == 200


def test_the_pages_checks(site: Site) -> None:
    shown = site.typed("s_client")
    assert f"CN = {DOMAIN}" in shown
    assert "notAfter=" in shown
    assert shown.count("data:") > 2


@asynccontextmanager
async def load(site: Site) -> AsyncIterator[Counter[str]]:
    """New connections all the time, and a stream that begins now and ends later."""
    outcomes: Counter[str] = Counter()

    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            try:
                async with site.client("127.0.0.1") as client:
                    outcomes[str((await client.get("/live")).status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[repr(error)] += 1

    asking = asyncio.create_task(ask())
    body = {"prompt": "x", "max_tokens": 8, "stream": True, "ignore_eos": True}
    try:
        async with (
            site.client("127.0.0.6") as client,
            client.stream("POST", "/generate", json=body) as answer,
        ):
            lines = answer.aiter_lines()
            await anext(lines)
            yield outcomes
            rest = [line async for line in lines]
            outcomes["stream whole" if sum("data:" in line for line in rest) >= 8 else "stream broken"] += 1
    finally:
        is_over.set()
        await asking


async def test_a_certificate_is_renewed_under_load(site: Site) -> None:
    """And what the alert asks about is the certificate that callers see, before and after."""
    skip_without("prometheus-blackbox-exporter", "curl")
    alerts = [
        int(days) * DAY_S
        for group in yaml_of(next(path for path in RULE_FILES if path.stem == "alerts"))["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "CertificateExpiry"
        for days in re.findall(r"probe_ssl_earliest_cert_expiry.*< (\d+) \* 86400", rule["expr"])
    ]
    assert len(alerts) == 2
    made(site.tls / "new", 90)
    site.trust("second", site.tls / "new/fullchain.pem")
    blackbox = blackbox_of(site)
    with closing(blackbox):

        def left_s() -> float:
            shown = site.typed("ssl_earliest", BLACKBOX=blackbox.url)
            assert "probe_success 1" in shown
            (end,) = re.findall(r"expiry (\S+)", shown)
            assert float(end) == ends_at(site), "of the file that nginx was given"
            return float(end) - time.time()

        first = await asyncio.to_thread(left_s)
        assert all(first < limit for limit in alerts), "two days: both alerts"
        async with load(site) as outcomes:
            await more(outcomes)
            await asyncio.to_thread(site.typed, "nginx -s reload")
            await more(outcomes)
            async with asyncio.timeout(60):
                while await asyncio.to_thread(served, site) != (site.tls / "fullchain.pem").read_text():
                    await more(outcomes)
        assert outcomes.keys() == {"200", "stream whole"}, outcomes
        second = await asyncio.to_thread(left_s)
    assert all(second > limit for limit in alerts), "ninety days: none"


async def more(outcomes: Counter[str]) -> None:
    n = outcomes.total()
    while outcomes.total() < n + 5:  # noqa: ASYNC110 - a task fills it
        await asyncio.sleep(0.01)


def served(site: Site) -> str:
    return ssl.get_server_certificate(("localhost", site.port))


def ends_at(site: Site) -> float:
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(site.tls / "fullchain.pem")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(ssl.cert_time_to_seconds(shown.strip().removeprefix("notAfter=")))


def blackbox_of(site: Site) -> Program:
    trusted = site.folder / "all.pem"
    trusted.write_text("".join(path.read_text() for path in site.folder.glob("trusted-*.pem")))
    http = f"{{tls_config: {{ca_file: {trusted}}}, preferred_ip_protocol: ip4}}"
    config = site.folder / "blackbox.yml"
    config.write_text(f"modules: {{http_2xx: {{prober: http, http: {http}}}}}\n")
    port = free_port()
    address = f"--web.listen-address=127.0.0.1:{port}"
    return Program(site.folder, port, "prometheus-blackbox-exporter", f"--config.file={config}", address)


@pytest.mark.parametrize(
    ("host", "authority", "is_believed"),
    [("localhost", "own", True), ("localhost", "another", False), ("127.0.0.1", "own", False)],
)
def test_the_database_must_be_who_it_says_it_is(
    postgres_over_tls: Callable[[str, str], str], host: str, authority: str, is_believed: bool
) -> None:
    with closing(Database(postgres_over_tls(host, authority), timeout_s=5)) as database:
        if is_believed:
            with database.transaction() as connection:
                seen = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                assert connection.exec_driver_sql(seen).scalar_one() is True
        else:
            with pytest.raises(RegistryUnavailable), database.transaction():
                pass


@pytest.fixture
def postgres_over_tls(postgres: PostgresServer, tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """The URL, by host and whose certificate is trusted; that of the server is for localhost."""
    authority, (chain, key) = certificate(tmp_path, "localhost")
    (tmp_path / "another").mkdir()
    another, _ = certificate(tmp_path / "another", "localhost")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone() or ()
        for source, name in ((chain, "server.crt"), (key, "server.key")):
            target = Path(data) / name
            shutil.copy(source, target)
            shutil.chown(target, Path(data).owner(), Path(data).group())
            target.chmod(0o600)
        connection.execute("ALTER SYSTEM SET ssl = on")
        connection.execute("SELECT pg_reload_conf()")
        name = postgres.new_database()
        trusted = {"own": authority, "another": another}

        def url(host: str, whose: str) -> str:
            address = postgres.url(name).replace("127.0.0.1", host)
            return f"{address}?sslmode=verify-full&sslrootcert={trusted[whose]}"

        yield url
        connection.execute("ALTER SYSTEM RESET ssl")
        connection.execute("SELECT pg_reload_conf()")
