"""Every fault of a server, on every way through it: what the user gets, and what they are told.

Each fault is met twice. First it passes: it happens once, and then the server is as it should be;
the data must be exact. Then it stays, for one object: its readers get an error that names it and
says how often and how long it was tried; all others, and runs that may skip, go on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit import aio
from aiolit.errors import (
    AccessDeniedError,
    AiolitError,
    ObjectChangedError,
    ObjectNotFoundError,
    OptimizeError,
    RangeError,
    ShortBodyError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from aiolit.format.assemble import assemble
from aiolit.format.index import dump_index
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.raw.indexer import BaseIndexer, FileMetadata
from aiolit.runtime.portal import portal
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.faulty_server import Answer, Asked, FaultyServer

pytestmark = [
    pytest.mark.keeps_open("sockets", "threads", reason="connections of the process's portal"),
    pytest.mark.filterwarnings("ignore:samples are skipped", "ignore:an item is skipped"),
]

PER_CHUNK, CHUNKS = 10, 4
COUNT = PER_CHUNK * CHUNKS
FAULTY = "chunk-0-1.bin"  # samples 10 to 19
NOWHERE = "nowhere.invalid"
KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": np.random.default_rng(number).bytes(3000)}


SAMPLES = [sample(number) for number in range(COUNT)]
INDEX, FILES = assemble(SAMPLES, chunk_size=PER_CHUNK)


@dataclass(frozen=True)
class Fault:
    """What a server does to the requests for one object.

    Attributes:
        passing: To the first ones, in turn.
        lasting: To all of them; None: there is no such thing, or it is as while it passes.
        error: What its readers get while it stays; None where the data comes all the same.
        says: What the message has.
        final: Whether the error comes while it passes, too: to try again would not help.
    """

    passing: Sequence[Answer]
    lasting: Answer | None
    error: type[AiolitError] | None
    says: str = ""
    final: bool = False


GAVE_UP = r"gave up on .* after \d+ attempts in \d+\.\d s"
BUSY = b"<Error><Code>SlowDown</Code><Message>less</Message></Error>"
SILENT = Answer(silent=True, then="stall")
HALF = Answer(after_nbytes=2000)

READ: dict[str, Fault] = {
    "reset": Fault(
        [replace(HALF, then="reset")], Answer(silent=True, then="reset"), StoreUnavailableError
    ),
    "stall": Fault([replace(HALF, then="stall")], SILENT, StoreTimeoutError, "no byte came"),
    "stall, hedged": Fault([replace(HALF, then="stall")], None, None),
    "500": Fault([Answer(status=500)] * 2, Answer(status=500), StoreUnavailableError, "500"),
    "503": Fault([Answer(status=503)] * 2, Answer(status=503), StoreUnavailableError, "503"),
    "503, Retry-After": Fault(
        [Answer(status=503, headers={"Retry-After": "0.1"})],
        Answer(status=503, headers={"Retry-After": "3600"}),
        StoreUnavailableError,
        "asks to wait 3600 s",
    ),
    "throttled": Fault(
        [Answer(status=429), Answer(status=503, body=BUSY)],
        Answer(status=429, body=BUSY),
        StoreUnavailableError,
        "429",
    ),
    "short body, length right": Fault([Answer(cut=2000)], Answer(cut=12_000), None),
    "short body, length wrong": Fault(
        [replace(HALF, then="close")], Answer(after_nbytes=0, then="close"), ShortBodyError
    ),
    "another range": Fault(
        [Answer(headers={"Content-Range": "bytes 7-99/100000"})],
        Answer(headers={"Content-Range": "bytes 7-99/100000"}),
        RangeError,
        "asked for .* the server sent 7 to 100",
        final=True,
    ),
    "ranges ignored": Fault(
        [Answer(ignore_range=True)],
        Answer(ignore_range=True),
        RangeError,
        "does not serve byte ranges",
        final=True,
    ),
    "replaced meanwhile": Fault(
        [replace(HALF, then="reset", replace_with=bytes(50_000))],
        None,
        ObjectChangedError,
        "was replaced while it was read",
        final=True,
    ),
    "403": Fault([Answer(status=403)], Answer(status=403), AccessDeniedError, "403", final=True),
    "404": Fault([Answer(status=404)], Answer(status=404), ObjectNotFoundError, "404", final=True),
    "slow first byte": Fault([], SILENT, StoreTimeoutError, "no byte came"),
    "unknown host": Fault([], None, StoreUnavailableError, f"'{NOWHERE}' is unknown"),
}
# Ways that a fault does not concern, since they ask otherwise.
SPARED = {
    ("stream", "ranges ignored"): "whole chunks are asked for from their first byte",
    ("raw", "ranges ignored"): "whole files are asked for",
    ("raw", "another range"): "whole files are asked for",
    ("raw", "replaced meanwhile"): "small files are read again from their start",
}

# Raw files that come short are asked for anew, in ranges.
UNCOUNTED = {"slow first byte", "unknown host", "ranges ignored", "another range"} | {
    "short body, length right"
}

WRITE: dict[str, Fault] = {
    "reset": Fault(
        [Answer(unread=True, silent=True, then="reset")] * 2,
        Answer(unread=True, silent=True, then="reset"),
        StoreUnavailableError,
    ),
    "stall": Fault([SILENT], SILENT, StoreTimeoutError, "no byte came"),
    "500": READ["500"],
    "503": READ["503"],
    "503, Retry-After": READ["503, Retry-After"],
    "throttled": READ["throttled"],
    "answer lost": Fault(
        [Answer(silent=True, then="close")],
        Answer(silent=True, then="close"),
        StoreUnavailableError,
    ),
    "replaced meanwhile": Fault([], None, OptimizeError, "another job wrote", final=True),
    "403": READ["403"],
    "404": READ["404"],
    "slow first byte": READ["slow first byte"],
    "unknown host": replace(READ["unknown host"], says=NOWHERE),
}


class Scene:
    """A data set on a server, and one object of it that has a fault."""

    def __init__(self, server: FaultyServer, fault: str, kind: Fault, tmp_path: Path) -> None:
        self.server, self.fault, self.kind, self._root = server, fault, kind, tmp_path
        self._left: list[Answer] = []
        self._lasting: Answer | None = None
        self._late = asyncio.Event()
        self._opened = 0
        self.stats: dict[str, int | float] = {}
        (tmp_path / "index.json").write_bytes(dump_index(INDEX))
        server.rule = self._choose

    def fill(self, folder: str) -> None:
        """Put the data set into a folder of the server."""
        for name, data in FILES.items():
            self.server.objects[f"{folder}/{name}"] = data

    def _choose(self, asked: Asked) -> Answer | None:
        if not asked.path.endswith(f"/{FAULTY}"):
            return None
        return self._left.pop(0) if self._left else self._lasting

    @asynccontextmanager
    async def passing(self, *, times: int = 1) -> AsyncIterator[None]:
        """Have the fault happen, so many times."""
        self._left = list(self.kind.passing) * times
        if self.fault == "slow first byte":
            self._left = [Answer(after=self._late)] * times
        async with asyncio.TaskGroup() as group:
            group.create_task(self._release())
            try:
                yield
            finally:
                self.server.stalled.set()
        left, self._left = self._left, []
        assert not left or (self.kind.final and len(left) < times)  # it did happen
        if self.stats and not self.kind.final:  # and was counted
            which = "hedges" if self.fault == "stall, hedged" else "retries"
            assert self.stats[which] >= (self.fault not in UNCOUNTED)

    async def _release(self) -> None:
        """Let a slow answer come once it has been asked for."""
        await self.server.stalled.wait()
        self._late.set()

    @asynccontextmanager
    async def lasting(self) -> AsyncIterator[None]:
        """Have the fault happen whenever it can."""
        self._lasting = self.kind.lasting
        yield
        self._lasting = None

    def options(self, *, patient: bool, s3: bool = True) -> dict[str, Any]:
        """Return the storage options; who is patient outlives any fault that passes."""
        found: dict[str, Any] = {
            "stall_timeout_s": 0.3 if self.fault == "stall" or not patient else 30,
            "give_up_after_s": 60 if patient else 0.4,
        }
        if self.fault == "stall, hedged":
            found["hedge_after_s"] = 0.1
        if s3:
            found |= KEYS | {"endpoint_url": self.base(patient=patient)}
        return found

    def base(self, *, patient: bool) -> str:
        """Return where the server is, or where there is none."""
        lost = self.fault == "unknown host" and not patient
        return f"http://{NOWHERE}:9" if lost else self.server.url

    def cache(self) -> Path:
        """Return a cache folder that nothing is in."""
        self._opened += 1
        return self._root / f"cache-{self._opened}"

    @property
    def index_path(self) -> Path:
        """A folder with the index: it never fails."""
        return self._root

    def use(self, dataset: Any, act: Callable[[Any], Any]) -> Any:
        """Use a data set, and close its connections."""
        try:
            return act(dataset)
        finally:
            self.stats = dataset.stats()
            portal().call(dataset.source.aclose)

    def check(self, error: AiolitError, *, url: str, patient: bool = False) -> str:
        """Look at what the user is told, and return the kind of it."""
        kind = self.kind
        assert kind.error is not None
        assert type(error) is kind.error, repr(error)
        assert _found(kind.says, str(error)), str(error)
        if isinstance(error, StoreError):
            assert url in str(error)
            assert error.attempts >= 1
            assert error.seconds >= 0
            if not kind.final:
                assert _found(GAVE_UP, str(error)), str(error)
        return type(error).__name__


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


Act = Callable[[], Any]


async def outcome(act: Act) -> Any:
    """Do it in a thread; return what came of it, or the error."""
    try:
        return await asyncio.to_thread(act)
    except AiolitError as error:
        return error


# ---- the ways ------------------------------------------------------------------------------------


def as_list(batch: list[Any]) -> list[Any]:
    return batch


async def stream(scene: Scene) -> str:
    """Read an epoch of whole chunks from S3, in order."""
    scene.fill("/bucket/set")

    def opened(patient: bool, **options: Any) -> StreamingDataset:
        return StreamingDataset(
            "s3://bucket/set",
            cache_dir=scene.cache(),
            index_path=scene.index_path,
            storage_options=scene.options(patient=patient),
            **options,
        )

    def batches(dataset: StreamingDataset) -> tuple[list[Any], AiolitError | None]:
        loader = StreamingDataLoader(dataset, batch_size=PER_CHUNK, collate_fn=as_list)
        read: list[Any] = []
        try:
            for batch in loader:
                read.extend(batch)
        except AiolitError as error:
            return read, error
        return read, None

    async def epoch(patient: bool, **options: Any) -> tuple[list[Any], AiolitError | None]:
        act = lambda: scene.use(opened(patient, **options), batches)  # noqa: E731
        found: tuple[list[Any], AiolitError | None] = await asyncio.to_thread(act)
        return found

    def judge(read: list[Any], error: AiolitError | None) -> str:
        if error is None:
            assert read == SAMPLES
            return "exact"
        whole = 0 if scene.fault == "unknown host" else PER_CHUNK
        assert read == SAMPLES[:whole]  # nothing lost or doubled before it
        return scene.check(error, url=f"s3://bucket/set/{FAULTY if whole else ''}")

    async with scene.passing():
        first = judge(*await epoch(True))
    scene.fill("/bucket/set")
    async with scene.lasting():
        second = judge(*await epoch(False))
        if second != "exact" and scene.fault != "unknown host":
            dataset = opened(False, on_error="skip")
            read, error = await asyncio.to_thread(lambda: scene.use(dataset, batches))
            if scene.kind.lasting is not None:
                assert error is None
                assert dataset.stats()["skipped"] == PER_CHUNK
                assert len(read) == COUNT
                assert read[PER_CHUNK * 2 :] == SAMPLES[PER_CHUNK * 2 :]
    return f"{first}; {second}"


async def random_access(scene: Scene) -> str:
    """Read single samples by range over HTTP."""
    scene.fill("/set")

    def opened(patient: bool) -> StreamingDataset:
        return StreamingDataset(
            f"{scene.base(patient=patient)}/set",
            cache_dir=scene.cache(),
            index_path=scene.index_path,
            storage_options=scene.options(patient=patient, s3=False),
        )

    def read(dataset: StreamingDataset) -> list[Any]:
        return [dataset[15], *dataset[[15, 3, 33]]]

    def judge(found: Any) -> str:
        if isinstance(found, AiolitError):
            where = NOWHERE if scene.fault == "unknown host" else FAULTY
            return scene.check(found, url=where)
        assert found == [SAMPLES[n] for n in (15, 15, 3, 33)]
        return "exact"

    async with scene.passing(times=2):  # where a sample lies, and its bytes
        first = judge(await outcome(lambda: scene.use(opened(True), read)))
    scene.fill("/set")
    async with scene.lasting():
        second = judge(await outcome(lambda: scene.use(opened(False), read)))
        if scene.fault != "unknown host":  # other chunks are not concerned
            others = await outcome(
                lambda: scene.use(opened(False), lambda dataset: dataset[3:33:25])
            )
            assert others == [SAMPLES[3], SAMPLES[28]]
    return f"{first}; {second}"


class Listed(BaseIndexer):
    """Knows what there is without asking."""

    def discover_files(
        self, input_dir: str, storage_options: Mapping[str, Any] | None = None
    ) -> list[FileMetadata]:
        return [FileMetadata(f"{input_dir}/{name}", len(data)) for name, data in FILES.items()]


async def raw(scene: Scene) -> str:
    """Read whole files over HTTP, many at once."""
    scene.fill("/set")

    def opened(patient: bool, **options: Any) -> StreamingRawDataset:
        return StreamingRawDataset(
            f"{scene.base(patient=patient)}/set",
            cache_dir=scene.cache(),
            indexer=Listed(),
            storage_options=scene.options(patient=patient, s3=False),
            **options,
        )

    def judge(found: Any) -> str:
        if isinstance(found, AiolitError):
            where = NOWHERE if scene.fault == "unknown host" else FAULTY
            return scene.check(found, url=where)
        if scene.fault == "replaced meanwhile":  # the new one, all of it
            found[1] = FILES[FAULTY] if found[1] == bytes(50_000) else found[1]
        assert found == list(FILES.values())
        return "exact"

    async with scene.passing():
        first = judge(await outcome(lambda: scene.use(opened(True), lambda files: files[:])))
    scene.fill("/set")
    async with scene.lasting():
        second = judge(await outcome(lambda: scene.use(opened(False), lambda files: files[:])))
        if second != "exact" and scene.fault != "unknown host":
            dataset = opened(False, on_error="skip")
            found = await outcome(lambda: scene.use(dataset, list))
            if scene.kind.lasting is not None:
                assert len(found) == CHUNKS
                assert set(found) == {data for name, data in FILES.items() if name != FAULTY}
                assert dataset.stats()["skipped"] == 1
    return f"{first}; {second}"


async def upload(scene: Scene) -> str:
    """Write a data set to S3."""
    stored = scene.server.objects

    async def write(patient: bool) -> str:
        stored.clear()
        options = scene.options(patient=patient)
        try:
            async with aio.Writer(
                "s3://bucket/out", chunk_size=PER_CHUNK, storage_options=options
            ) as writer:
                for one in SAMPLES:
                    await writer.put(one)
                if scene.fault == "replaced meanwhile":
                    stored["/bucket/out/index.json"] = b"another's"
        except AiolitError as error:
            # Another job's chunks may have the same names: they are left.
            assert scene.fault == "replaced meanwhile" or stored == {}
            return scene.check(error, url="s3://bucket/out")
        folder = scene.cache()
        folder.mkdir()
        for path, data in stored.items():
            (folder / path.rpartition("/")[2]).write_bytes(data)
        assert list(StreamingDataset(folder)) == SAMPLES
        return "exact"

    async with scene.passing():
        first = await write(True)
    async with scene.lasting():
        second = await write(False)
    return f"{first}; {second}"


WAYS: dict[str, Callable[[Scene], Awaitable[str]]] = {
    "stream": stream,
    "random access": random_access,
    "raw": raw,
    "upload": upload,
}
ORDER = [*READ, *(WRITE.keys() - READ.keys())]
CELLS = [(fault, way) for way in WAYS for fault in (WRITE if way == "upload" else READ)]


@pytest.mark.parametrize(("fault", "way"), CELLS, ids=lambda value: value.replace(" ", "-"))
async def test_fault(
    fault: str, way: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kind = (WRITE if way == "upload" else READ)[fault]
    if (way, fault) in SPARED:
        kind = replace(kind, error=None, final=False)
    async with FaultyServer() as server:
        scene = Scene(server, fault, kind, tmp_path)
        came = ""
        try:
            came = await WAYS[way](scene)
        finally:
            server.release.set()
            first, _, second = came.partition("; ")
            if fault == "unknown host":
                first = "-"
            elif kind.lasting is None:
                second = "-"
            record_property("fault", (ORDER.index(fault), fault, way, f"{first}; {second}"))
    error = "exact" if kind.error is None else kind.error.__name__
    assert first in ("-", error if kind.final else "exact")
    assert second in ("-", error)
