"""What the keys of `adapters` do that need adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptive_lora.engine.fake import FakeEngine
from tests.adapter_folders import write_adapter
from tests.settings.effects import key, serving


@key("adapters.effect_checks")
async def test_an_adapter_without_effect_is_refused_unless_the_checks_are_off(tmp_path: Path) -> None:
    class Deaf(FakeEngine):
        """Answers with every adapter as without."""

        async def answer_logprobs(self, prompt: Any, answer: str, adapter_id: str | None = None) -> Any:
            return (-1.0,)

    write_adapter(tmp_path / "fleet" / "code", base_model="fake-base")
    served = {}
    for checked in (True, False):
        adapters = {"path": tmp_path / "fleet", "effect_checks": checked}
        storage = {"path": tmp_path / f"state-{checked}"}
        async with serving(Deaf(), adapters=adapters, storage=storage) as client:
            served[checked] = [each["name"] for each in (await client.get("/adapters")).json()["adapters"]]
    assert served == {True: [], False: ["code"]}


@key("adapters.max_compositions")
async def test_compositions_are_served_unless_none_may_be_kept(tmp_path: Path) -> None:
    for name, seed in (("code", 1), ("poems", 2)):
        write_adapter(tmp_path / "fleet" / name, base_model="fake-base", seed=seed)
    statuses = {}
    for capacity in (0, 2):
        adapters = {"path": tmp_path / "fleet", "max_compositions": capacity}
        async with serving(adapters=adapters) as client:
            answer = await client.post("/generate", json={"prompt": "x", "adapter": "code:0.7+poems:0.3"})
            statuses[capacity] = answer.status_code
    assert statuses == {0: 400, 2: 200}


@key("adapters.composition_method", "adapters.composition_density")
async def test_compositions_are_made_by_the_configured_method(tmp_path: Path) -> None:
    for name, seed in (("code", 1), ("poems", 2)):
        write_adapter(tmp_path / "fleet" / name, base_model="fake-base", seed=seed)
    versions = set()
    for changes in (
        {},
        {"composition_method": "ties"},
        {"composition_method": "ties", "composition_density": 0.2},
    ):
        adapters = {"path": tmp_path / "fleet", "max_lora_rank": 16, **changes}
        async with serving(adapters=adapters) as client:
            answer = await client.post("/generate", json={"prompt": "x", "adapter": "code:0.7+poems:0.3"})
            versions.add(answer.json()["version"])
    assert len(versions) == 3
