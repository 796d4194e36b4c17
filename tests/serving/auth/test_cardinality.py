"""Whatever clients send, the number of metrics' series stays what the fleet and the routes make it."""

from __future__ import annotations

import itertools

from tests.serving.auth.conftest import OpenGateway
from tests.serving.auth.signing import bearer, token

LABELS = frozenset(
    {
        "agent",
        "code",
        "event",
        "generation",
        "kind",
        "le",
        "outcome",
        "phase",
        "priority",
        "reason",
        "result",
        "route",
    }
    | {"status", "version", "where", "implementation", "major", "minor", "patchlevel"}
)
"""Each of them has a bounded number of values; a new one is to be thought about first."""


async def test_odd_requests_make_no_series(open_gateway: OpenGateway) -> None:
    async with open_gateway(rate_limiting={"enabled": True, "requests_per_minute": 1}) as gateway:
        metrics = gateway.app.state.runtime.metrics

        def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
            return {
                (sample.name, tuple(sorted(sample.labels.items())))
                for family in metrics.registry.collect()
                for sample in family.samples
            }

        async def flood(salt: str) -> None:
            for i in range(20):
                word = f"{salt}{i}"
                headers = bearer(token(sub=word, tenant=word, tier=word)) | {"x-request-id": word}
                for method, path in itertools.product(
                    ("GET", "POST", word.upper(), "get"),
                    (f"/{word}", f"/v1/models/{word}", "/generate/", "/docs"),
                ):
                    await gateway.client.request(method, path, headers=headers)
                for name in (
                    word,
                    f"code@{word}",
                    f"code:0.{i + 1}+creative:0.5",
                    f"team/{word}",
                    "\u202e",
                    "base",
                ):
                    body = {"prompt": word, "adapter": name, "max_tokens": 1}
                    await gateway.client.post("/generate", json=body, headers=headers)
            await gateway.client.post("/generate", json={"prompt": salt}, headers=bearer(salt))

        await flood("quokka")
        before = series()
        await flood("wombat")
        after = series()
        assert after == before
        assert len(after) < 1_500
        assert {name for _, labels in after for name, _ in labels} <= LABELS
        text = metrics.render().decode()
        assert "quokka" not in text
        assert "wombat" not in text
