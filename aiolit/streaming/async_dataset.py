"""The async face of a streaming data set, for those who hold the loop themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import numpy as np

from aiolit.errors import ConfigError
from aiolit.plan.order import deal_epoch
from aiolit.plan.stream import Block, WorkerStream
from aiolit.runtime.groups import single_error
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.epoch import Readers, whole_number
from aiolit.streaming.feed import PieceWindow
from aiolit.streaming.fetch import Held
from aiolit.streaming.reading import Batch, block_samples, make_window


class AsyncStreamingDataset:
    """A data set, read on the running event loop: ``async with`` opens it, leaving closes it.

    The arguments are those of ``aiolit.StreamingDataset``, with their meanings. The order of an
    epoch is the same as there for the same rank, batch size and no workers.

    Leaving the block cancels what is on its way; connections, files and reservations of the cache
    are given back. All methods belong to the loop that entered the block.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = (args, kwargs)
        self._opened: StreamingDataset | None = None
        self._group: asyncio.TaskGroup | None = None
        self._windows: set[PieceWindow] = set()

    async def __aenter__(self) -> Self:
        args, kwargs = self._arguments
        self._opened = await asyncio.to_thread(StreamingDataset, *args, **kwargs)
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        dataset, group = self._dataset, self._tasks
        self._opened = self._group = None
        for window in self._windows:
            window.cancel()
        try:
            with single_error():
                await group.__aexit__(exc_type, exc, traceback)
        finally:
            for window in self._windows:
                window.close_all()
            await dataset.source.aclose()

    @property
    def num_samples(self) -> int:
        """How many samples the data set has."""
        return self._dataset.num_samples

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch."""
        return len(self._dataset)

    async def get(self, index: int) -> Any:
        """Return one sample; it and its offsets are all that is fetched where ranges can be read.

        Raises:
            IndexError: There is no such sample.
        """
        return (await self.get_many([index]))[0]

    async def get_many(self, indices: Sequence[int]) -> list[Any]:
        """Return samples in the order asked for, fetched together with few requests.

        Raises:
            IndexError: There is no such sample; nothing was fetched.
        """
        dataset = self._dataset
        chunks, samples = dataset.places(indices)
        return await self._read(dataset, chunks, samples)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate this rank's samples of the coming epoch."""
        return self._samples()

    async def batches(
        self, batch_size: int, *, collate_fn: Callable[[list[Any]], Any] | None = None
    ) -> AsyncIterator[Any]:
        """Yield this rank's batches of the coming epoch, while what follows is fetched.

        An iteration that is left early stops fetching when the generator is closed or the data
        set's block is left.

        Args:
            batch_size: Samples in a batch.
            collate_fn: Makes a batch of a list of samples; by default the list is the batch.
        """
        dataset, group = self._dataset, self._tasks
        size = whole_number(batch_size, "batch_size")
        run = dataset.begin(Readers(dataset.find_topology(), 1, size))
        position = run.position
        dealt, base = deal_epoch(
            dataset.segments, run.order, position.epoch, position.legs, run.deal
        )
        stream = WorkerStream(dealt, base, run.rank, 0)
        dataset.position = position.next_epoch()
        window = make_window(dataset.source, stream, dataset.ahead)
        self._windows.add(window)
        group.create_task(window.run(), name="pieces")
        finish = dataset.finisher()
        try:
            for block in stream.blocks(block_samples(dataset.source, stream)):
                async for batch in self._of_block(dataset, stream, window, block):
                    samples = finish(batch)
                    yield samples if collate_fn is None else collate_fn(samples)
                for finished in block.finished:
                    window.release(finished)
        finally:
            window.cancel()
            window.close_all()
            self._windows.discard(window)

    async def _of_block(
        self, dataset: StreamingDataset, stream: WorkerStream, window: PieceWindow, block: Block
    ) -> AsyncIterator[Batch]:
        begin = 0
        for end in block.ends.tolist():
            pieces, samples = block.piece[begin:end], block.sample[begin:end].tolist()
            chunks = stream.pieces.chunk[pieces].tolist()
            held = {piece: await window.wait(piece) for piece in np.unique(pieces).tolist()}
            opened = [held[piece] for piece in pieces.tolist()]
            yield Batch(await self._values(dataset, opened, chunks, samples), chunks, samples)
            begin = end

    async def _values(
        self,
        dataset: StreamingDataset,
        opened: list[Held | None],
        chunks: list[int],
        samples: list[int],
    ) -> list[Any]:
        values, missing = [], []
        for number, (held, sample) in enumerate(zip(opened, samples, strict=True)):
            if held is None:
                missing.append(number)
            values.append(None if held is None else held.reader.sample(sample))
        if missing:
            readers, ranged = await dataset.source.open_samples(
                [chunks[number] for number in missing], [samples[number] for number in missing]
            )
            for number, reader in zip(missing, readers, strict=True):
                values[number] = reader.sample(samples[number])
            for one in ranged:
                one.close()
        return values

    async def _samples(self) -> AsyncIterator[Any]:
        async with aclosing(self.batches(1)) as stream:  # type: ignore[type-var]
            async for batch in stream:
                yield batch[0]

    async def _read(
        self, dataset: StreamingDataset, chunks: list[int], samples: list[int]
    ) -> list[Any]:
        if not chunks:
            return []
        direct = [dataset.source.direct_reader(chunk) for chunk in chunks]
        if all(reader is not None for reader in direct):
            return [
                dataset.transform(reader.sample(sample))
                for reader, sample in zip(direct, samples, strict=True)
                if reader is not None
            ]
        readers, held = await dataset.source.open_samples(chunks, samples)
        found = [
            dataset.transform(reader.sample(sample))
            for reader, sample in zip(readers, samples, strict=True)
        ]
        for one in held:
            one.close()
        return found

    @property
    def _dataset(self) -> StreamingDataset:
        if self._opened is None:
            raise ConfigError("open the data set first: async with aio.StreamingDataset(...) as ds")
        return self._opened

    @property
    def _tasks(self) -> asyncio.TaskGroup:
        assert self._group is not None
        return self._group
