import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.binding import check_bind, is_loopback
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


def test_an_exposed_address_needs_insecure() -> None:
    settings = Settings.model_validate({"api": {"host": "0.0.0.0"}})
    with pytest.raises(SettingsError, match="--insecure"):
        check_bind(settings, insecure=False)
    check_bind(settings, insecure=True)
    check_bind(Settings(), insecure=False)
