"""The async face of a streaming data set, for those who hold the loop themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from aiolit.errors import ConfigError
from aiolit.groups import single_error
from aiolit.plan.order import deal_epoch
from aiolit.plan.stream import LaneStream, Taken
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.feed import PieceWindow
from aiolit.streaming.held import Held
from aiolit.streaming.reading import Batch, ReadPlan, RunsShares, make_window
from aiolit.streaming.run import Readers, whole_number
from aiolit.streaming.source import ChunkSource


class AsyncStreamingDataset:
    """A data set, read on the running event loop: ``async with`` opens it, leaving closes it.

    The arguments are those of ``aiolit.StreamingDataset``, with their meanings, and so are the
    errors, which entering the block raises. The order of an epoch is the same as there for the same
    rank, batch size and no workers; each iteration is the next epoch.

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
            StoreError: It cannot be fetched; the message names the chunk.
            DatasetError: Its bytes are damaged; the message names chunk and sample.
        """
        return (await self.get_many([index]))[0]

    async def get_many(self, indices: Sequence[int]) -> list[Any]:
        """Return samples in the order asked for, fetched together with few requests.

        Raises:
            IndexError: There is no such sample; nothing was fetched.
            StoreError: One cannot be fetched; the message names the chunk.
            DatasetError: Bytes are damaged; the message names chunk and sample.
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
        readers = Readers(dataset.find_topology(), 1, size)
        run = dataset.begin(readers)
        deck = dataset.deck(run.position, run.options, readers)
        dealt, base = deal_epoch(deck, run.position.epoch, run.position.legs, run.deal)
        share = dealt.share_of(base, run.rank, 0)
        stream = dealt.shares.stream(share.lanes, share.skips)
        dataset.position = dataset.next_position(run)
        window = make_window(deck.plan, stream)
        self._windows.add(window)
        group.create_task(window.run(), name="pieces")
        try:
            for turn in share.turns:
                samples: list[Any] = []
                for lane in range(len(share.lanes)):
                    taken = stream.take(lane, min(run.deal.share, stream.left(lane)))
                    samples += await self._read_taken(deck.plan, stream, window, taken)
                    for finished in taken.finished:
                        window.release(finished)
                if share.repeat is not None and turn == share.turns[-1]:
                    samples += await self._read_again(deck.plan, dealt.shares, *share.repeat)
                yield samples if collate_fn is None else collate_fn(samples)
        finally:
            window.cancel()
            window.close_all()
            self._windows.discard(window)

    async def _read_taken(
        self, plan: ReadPlan, stream: LaneStream, window: PieceWindow, taken: Taken
    ) -> list[Any]:
        pieces, samples = taken.piece.tolist(), taken.sample.tolist()
        chunks = [stream.pieces[piece].chunk for piece in pieces]
        held = {piece: await window.wait(piece) for piece in sorted(set(pieces))}
        opened = [held[piece] for piece in pieces]
        values = await self._values(plan.source, opened, chunks, samples)
        return plan.finish(Batch(values, chunks, samples))

    async def _read_again(
        self, plan: ReadPlan, shares: RunsShares, lane: int, position: int
    ) -> list[Any]:
        stream = shares.stream([lane], [position])
        taken = stream.take(0, 1)
        chunks, samples = [stream.pieces[int(taken.piece[0])].chunk], taken.sample.tolist()
        values = await self._values(plan.source, [None], chunks, samples)
        return plan.finish(Batch(values, chunks, samples))

    async def _values(
        self,
        source: ChunkSource,
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
            readers, ranged = await source.open_samples(
                [chunks[number] for number in missing], [samples[number] for number in missing]
            )
            try:
                for number, reader in zip(missing, readers, strict=True):
                    values[number] = reader.sample(samples[number])
            finally:
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
        values: list[Any] = [None] * len(chunks)
        for turn in dataset.source.turns(chunks):
            wanted = [samples[place] for place in turn]
            readers, held = await dataset.source.open_samples(
                [chunks[place] for place in turn], wanted
            )
            try:
                for place, reader, sample in zip(turn, readers, wanted, strict=True):
                    values[place] = dataset.transform(reader.sample(sample))
            finally:
                for one in held:
                    one.close()
        return values

    @property
    def _dataset(self) -> StreamingDataset:
        if self._opened is None:
            raise ConfigError("open the data set first: async with aio.StreamingDataset(...) as ds")
        return self._opened

    @property
    def _tasks(self) -> asyncio.TaskGroup:
        assert self._group is not None
        return self._group
