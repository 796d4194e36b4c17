"""What comes before the load: is there anybody who answers at all?"""

from __future__ import annotations

import asyncio

import pytest

from adaptive_lora.errors import EngineError
from adaptive_lora.loadtest.figures import Objectives
from adaptive_lora.loadtest.run import run
from adaptive_lora.loadtest.search import RateSearch
from adaptive_lora.loadtest.step import LoadConfig
from adaptive_lora.loadtest.workload import Lengths, Workload


async def test_a_server_that_answers_nothing_gets_no_load() -> None:
    workload = Workload({"code": ["Write a function"]}, Lengths(1, 1), zipf=1.0, seed=0)
    config, search = LoadConfig(Objectives((), 0.05)), RateSearch(1.0, 2.0)
    with pytest.raises(EngineError, match="does not answer 'code': connection"):
        await run("http://127.0.0.1:9", {}, workload, config, search, stop=asyncio.Event())
