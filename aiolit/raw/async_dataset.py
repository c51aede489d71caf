"""The async face of a raw data set, for those who hold the loop themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from aiolit.errors import ConfigError
from aiolit.groups import single_error
from aiolit.plan.order import deal_epoch
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.raw.deck import make_window
from aiolit.raw.stream import RawStream
from aiolit.raw.window import ItemWindow
from aiolit.streaming.run import Readers, whole_number


class AsyncStreamingRawDataset:
    """Raw files, read on the running event loop: ``async with`` opens them, leaving closes.

    The arguments are those of ``aiolit.StreamingRawDataset``, or a data set of that class, one of
    your own subclasses perhaps. The order of an epoch is the same as in a ``StreamingDataLoader``
    for the same rank, batch size and no workers.

    Leaving the block cancels what is on its way. All methods belong to the loop that entered it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = (args, kwargs)
        self._opened: StreamingRawDataset | None = None
        self._stream: RawStream | None = None
        self._group: asyncio.TaskGroup | None = None
        self._windows: set[ItemWindow] = set()

    async def __aenter__(self) -> Self:
        args, kwargs = self._arguments
        if len(args) == 1 and isinstance(args[0], StreamingRawDataset):
            self._opened = args[0]
        else:
            self._opened = await asyncio.to_thread(StreamingRawDataset, *args, **kwargs)
        self._stream = self._opened.streaming()
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        dataset, group = self._dataset, self._group
        assert group is not None
        self._opened = self._group = None
        for window in self._windows:
            window.cancel()
        try:
            with single_error():
                await group.__aexit__(exc_type, exc, traceback)
        finally:
            await dataset.source.aclose()

    def __len__(self) -> int:
        """Count the items."""
        return len(self._dataset)

    async def get(self, index: int) -> Any:
        """Return one item.

        Raises:
            IndexError: There is no such item.
            StoreError: A file cannot be fetched; the message names it.
        """
        return (await self.get_many([index]))[0]

    async def get_many(self, indices: Sequence[int]) -> list[Any]:
        """Return items in the order asked for, fetched concurrently.

        Raises:
            IndexError: There is no such item; nothing was fetched.
            StoreError: A file cannot be fetched; the message names it.
        """
        dataset = self._dataset
        wanted = [dataset.checked(index) for index in indices]
        return dataset.finish(await dataset.source.get_many(wanted), wanted)

    async def batches(
        self, batch_size: int, *, collate_fn: Callable[[list[Any]], Any] | None = None
    ) -> AsyncIterator[Any]:
        """Yield this rank's batches of the coming epoch, while what follows is fetched.

        An iteration that is left early stops fetching when the generator is closed or the data
        set's block is left.

        Args:
            batch_size: Items in a batch.
            collate_fn: Makes a batch of a list of items; by default the list is the batch.
        """
        dataset, stream, group = self._dataset, self._stream, self._group
        assert stream is not None
        assert group is not None
        readers = Readers(stream.find_topology(), 1, whole_number(batch_size, "batch_size"))
        run = stream.begin(readers)
        deck = stream.deck(run.position, run.options, readers)
        dealt, base = deal_epoch(deck, run.position.epoch, run.position.legs, run.deal)
        share = dealt.share_of(base, run.rank, 0)
        lanes = dealt.shares.items(share.lanes, share.skips)
        taken = [0] * len(lanes)
        stream.position = stream.next_position(run)
        window = make_window(deck.plan, lanes)
        self._windows.add(window)
        group.create_task(window.run(), name="items")
        try:
            for turn in share.turns:
                samples: list[Any] = []
                for lane, items in enumerate(lanes):
                    now = items[taken[lane] : taken[lane] + run.deal.share].tolist()
                    taken[lane] += len(now)
                    samples += dataset.finish(await window.take(lane, len(now)), now)
                if share.repeat is not None and turn == share.turns[-1]:
                    lane, position = share.repeat
                    again = int(dealt.shares.items([lane], [position])[0][0])
                    values = await dataset.source.get_or_skip([again])
                    samples += dataset.finish(values, [again])
                yield samples if collate_fn is None else collate_fn(samples)
        finally:
            window.cancel()
            self._windows.discard(window)

    @property
    def _dataset(self) -> StreamingRawDataset:
        if self._opened is None:
            raise ConfigError(
                "open the data set first: async with aio.StreamingRawDataset(...) as ds"
            )
        return self._opened
