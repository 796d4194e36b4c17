import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.binding import admin_hosts, check_bind, is_loopback, metrics_hosts
from adaptive_lora.settings import Settings


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("[::1]", True),
        ("0.0.0.0", False), ("::", False), ("192.168.1.4", False), ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


LOCAL, EXPOSED = "127.0.0.1", "0.0.0.0"


@pytest.mark.parametrize("host", [LOCAL, EXPOSED])
@pytest.mark.parametrize("enabled", [None, False, True])
@pytest.mark.parametrize("allow_insecure", [False, True])
@pytest.mark.parametrize("admin_host", [None, LOCAL, EXPOSED])
def test_when_a_server_refuses_to_start(
    host: str, enabled: bool | None, allow_insecure: bool, admin_host: str | None
) -> None:
    """`enabled` None: the settings do not say."""
    auth = {"allow_insecure": allow_insecure} | ({} if enabled is None else {"enabled": enabled})
    admin = {} if admin_host is None else {"admin_host": admin_host, "admin_port": 0}
    settings = Settings.model_validate({"api": {"host": host, **admin}, "auth": auth})
    problem = None
    if enabled and allow_insecure:
        problem = "contradict"
    elif not enabled and host == EXPOSED and not (enabled is False and allow_insecure):
        problem = r"auth\.enabled: true.*--insecure"
    elif not enabled and admin_host == EXPOSED:
        problem = "administrators"
    if problem is None:
        check_bind(settings)
    else:
        with pytest.raises(SettingsError, match=problem):
            check_bind(settings)


def test_the_administrators_port_answers_its_own_names() -> None:
    assert admin_hosts(Settings().api) == ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")
    exposed = {"admin_host": "10.0.0.1", "allowed_hosts": ["api.example"]}
    assert admin_hosts(Settings.model_validate({"api": exposed}).api) == ("api.example",)


def test_prometheus_asks_by_any_name_unless_only_this_machine_can() -> None:
    assert metrics_hosts(Settings().monitoring) == ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")
    assert metrics_hosts(Settings.model_validate({"monitoring": {"metrics_host": "::"}}).monitoring) == ()
