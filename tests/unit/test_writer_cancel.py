"""A `put` that is cancelled while it waits: no data set, and an error that says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from aiolit import aio
from aiolit.errors import OptimizeError

SAMPLE = np.zeros(2 << 20, np.uint8)  # large: each put hands its bytes on, and may have to wait


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.*"))


async def put_and_cancel_one(writer: aio.Writer) -> None:
    """Put many samples at once; the last waits for its turn, and is cancelled."""
    puts = [asyncio.create_task(writer.put(SAMPLE)) for _ in range(20)]
    await asyncio.sleep(0)  # they have all begun, and nothing can have been stored
    puts[-1].cancel()
    done, _ = await asyncio.wait(puts)
    assert [one for one in puts if one.cancelled()] == puts[-1:]
    assert len(done) == 20


async def test_leaving_the_block_says_it_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptimizeError, match="samples are missing"):
        async with aio.Writer(tmp_path / "data", chunk_size=1, num_uploaders=1) as writer:
            await put_and_cancel_one(writer)
    assert not files(tmp_path)


async def test_the_next_put_says_it(tmp_path: Path) -> None:
    said = []
    with suppress(OptimizeError):
        async with aio.Writer(tmp_path / "data", chunk_size=1, num_uploaders=1) as writer:
            await put_and_cancel_one(writer)
            try:
                await writer.put(SAMPLE)
            except OptimizeError as error:
                said.append(error)
    assert "samples are missing" in str(said[0])
    assert not files(tmp_path)


async def test_a_put_cancelled_before_it_begins_takes_nothing(tmp_path: Path) -> None:
    async with aio.Writer(tmp_path / "data", chunk_size=10) as writer:
        await writer.put(1)
        never = asyncio.create_task(writer.put(2))
        never.cancel()
        await asyncio.wait([never])
        await writer.put(3)
    assert writer.summary.samples == 2
