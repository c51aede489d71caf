"""What goes wrong on the way is tried again from the byte reached; what is final fails at once."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Iterator

import pytest
from botocore.config import Config

from aiolit.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RangeError,
    ShortBodyError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from aiolit.plan.backoff import Backoff
from aiolit.store.base import Store
from aiolit.store.loop_bound import aclose_all
from aiolit.store.memory import MemoryStore
from aiolit.store.retry import RetryPolicy, RetryStore
from aiolit.store.s3 import S3Store
from aiolit.store.upload import PART_NBYTES
from aiolit.testing.clock import ManualClock
from aiolit.testing.faulty_server import Answer, FaultyServer
from aiolit.testing.stores import CountingStore, Fault, FaultStore, in_turn

DATA = bytes(range(256)) * 4000
PATH = "/bucket/data/object"
SOON = Fault(error=StoreUnavailableError("503", url="x"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with FaultyServer() as server:
        server.objects[PATH] = DATA
        yield server


@pytest.fixture
async def store(server: FaultyServer, clock: ManualClock) -> AsyncIterator[Store]:
    """Yield S3 at the faulty server, with retries that take no time."""
    async with retrying(over_http(server), clock) as store:
        yield store


def over_http(server: FaultyServer, stall_timeout_s: float = 0.2) -> S3Store:
    return S3Store(
        "s3://bucket/data",
        {
            "endpoint_url": server.url,
            "anon": True,
            "stall_timeout_s": stall_timeout_s,
            "connect_timeout_s": 5,
        },
    )


def retrying(
    inner: Store, clock: ManualClock, policy: RetryPolicy | None = None, rng: float = 0.5
) -> RetryStore:
    return RetryStore(inner, policy, clock=clock, sleep=clock.sleep, random=lambda: rng)


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(after_nbytes=100_000, then="reset")],
        [Answer(after_nbytes=100_000, then="close")],
        [Answer(after_nbytes=100_000, then="stall")],
        [Answer(silent=True, then="stall")],
        [Answer(silent=True, then="close")] * 2,
        [Answer(silent=True, then="reset")],
        [Answer(status=500)] * 3,
        [Answer(status=503), Answer(status=429), Answer(status=502)],
        [Answer(status=503, body=b"<Error><Code>SlowDown</Code></Error>")],
        [Answer(status=400, body=b"<Error><Code>RequestTimeout</Code></Error>")],
        [Answer(body=DATA[1000:50_000])],
        [Answer(body=DATA[1000:50_000], headers={"Content-Length": None}, then="close")],
        [Answer(after_nbytes=n, then="reset") for n in (1, 1000, 0, 100_000)],
    ],
    ids=lambda answers: "-".join(
        f"{a.status or ''}{a.then}{'' if a.after_nbytes is None else a.after_nbytes}"
        for a in answers
    ),
)
async def test_the_read_goes_on_from_the_byte_it_reached(
    server: FaultyServer, store: Store, answers: list[Answer]
) -> None:
    server.answers.extend(answers)
    seen = 0

    def progress(count: int) -> None:
        nonlocal seen
        seen += count

    out = bytearray(500_000)
    etag = await store.read_into("object", 1000, memoryview(out), on_progress=progress)
    assert out == DATA[1000:501_000]
    assert seen == len(out)
    assert etag is not None
    assert len(server.asked) >= len(answers) + 1
    starts = [int(asked.headers["range"][6:].partition("-")[0]) for asked in server.asked]
    assert starts == sorted(starts)
    # Once a byte has come, its version is asked for, and no byte is asked for twice.
    for start, asked in zip(starts, server.asked, strict=True):
        assert asked.headers.get("if-match") == (etag if start > 1000 else None)
        assert asked.headers["range"].endswith("-500999")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(after_nbytes=300_000, then="reset"),
        Answer(after_nbytes=300_000, then="stall"),
        Answer(status=503),
        Answer(after_nbytes=300_000, then="close"),
    ],
)
async def test_streams_and_whole_objects_go_on_too(
    server: FaultyServer, store: Store, answer: Answer
) -> None:
    server.answers.extend([answer, answer])
    assert await store.get("object") == DATA
    server.answers.append(answer)
    async with store.stream("object", 100) as pieces:
        assert b"".join([piece async for piece in pieces]) == DATA[100:]
        assert pieces.size == len(DATA)
    server.answers.extend([answer, answer])
    assert await store.get_range("object", 5, 700_000) == DATA[5:700_000]


@pytest.mark.parametrize("then", ["reset", "stall", "close"])
async def test_a_replaced_object_is_an_error_and_no_mixture(
    server: FaultyServer, store: Store, then: str
) -> None:
    server.answers.append(Answer(after_nbytes=200_000, then=then, replace_with=bytes(len(DATA))))
    with pytest.raises(ObjectChangedError, match="s3://bucket/data/object was replaced"):
        await store.get_range("object", 0, len(DATA))
    assert len(server.asked) == 2
    server.answers.append(Answer(after_nbytes=200_000, then=then, replace_with=DATA))
    with pytest.raises(ObjectChangedError, match="was replaced"):
        await store.get("object")


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Answer(status=404), ObjectNotFoundError, "no object s3://bucket/data/object"),
        (
            Answer(status=404, body=b"<Error><Code>NoSuchBucket</Code></Error>"),
            ObjectNotFoundError,
            "no bucket s3://bucket .*endpoint_url",
        ),
        (Answer(status=403), AccessDeniedError, "s3://bucket/data/object is refused.*anon"),
        (
            Answer(status=400, body=b"<Error><Code>ExpiredToken</Code></Error>"),
            AccessDeniedError,
            "the session token has expired",
        ),
        (
            Answer(status=403, body=b"<Error><Code>RequestTimeTooSkewed</Code></Error>"),
            AccessDeniedError,
            "clock",
        ),
        (
            Answer(status=301, headers={"x-amz-bucket-region": "eu-west-1"}),
            StoreError,
            "region eu-west-1.*region_name",
        ),
        (Answer(status=400, body=b"<html>what?"), StoreError, "answered 400"),
        (Answer(headers={"Content-Range": "bytes 10-14/15"}), RangeError, "has 15 bytes"),
        (
            Answer(headers={"Content-Range": f"bytes 20-29/{len(DATA)}"}),
            RangeError,
            "asked for 10 to 20, the server sent 20 to 30",
        ),
        (Answer(headers={"Content-Range": None}), RangeError, "206 with Content-Range ''"),
        (Answer(ignore_range=True), RangeError, "does not serve byte ranges"),
        (Answer(headers={"ETag": "a\rb"}), StoreError, "not proper HTTP"),
    ],
)
async def test_what_is_final_fails_at_once(
    server: FaultyServer,
    store: Store,
    clock: ManualClock,
    answer: Answer,
    error: type[StoreError],
    message: str,
) -> None:
    server.answers.append(answer)
    with pytest.raises(error, match=message) as caught:
        await store.get_range("object", 10, 20)
    assert type(caught.value) is error
    assert caught.value.url == "s3://bucket/data/object"
    assert clock.slept == []
    assert len(server.asked) == 1
    # The connection serves on, or another does.
    assert await store.get_range("object", 10, 20) == DATA[10:20]


async def test_a_server_without_ranges_serves_from_the_start(
    server: FaultyServer, store: Store
) -> None:
    server.answers.extend([Answer(ignore_range=True)] * 2)
    assert await store.get_range("object", 0, 1000) == DATA[:1000]
    with pytest.raises(RangeError, match="has 1024000 bytes"):
        await store.get_range("object", 0, len(DATA) + 1)


async def test_retry_after_is_kept(server: FaultyServer, store: Store, clock: ManualClock) -> None:
    date = "Thu, 01 Jan 2026 00:00:"
    server.answers.extend(
        [
            Answer(status=503, headers={"Retry-After": "7"}),
            Answer(status=503, headers={"Retry-After": f"{date}30 GMT", "Date": f"{date}10 GMT"}),
            Answer(status=503, headers={"Retry-After": "soon"}),
        ]
    )
    assert await store.get_range("object", 0, 10) == DATA[:10]
    first, second, third = clock.slept
    assert 7 <= first < 8
    assert 20 <= second < 21
    assert third < 1


async def test_a_wait_beyond_the_deadline_is_not_begun(
    server: FaultyServer, store: Store, clock: ManualClock
) -> None:
    server.answers.append(Answer(status=503, headers={"Retry-After": "3600"}))
    with pytest.raises(StoreUnavailableError, match="the server asks to wait 3600 s"):
        await store.head("object")
    assert clock.slept == []


async def test_giving_up_says_how_often_and_how_long(
    server: FaultyServer, store: Store, clock: ManualClock
) -> None:
    server.answers.extend([Answer(status=500)] * 1000)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.get_range("object", 0, 10)
    error = caught.value
    assert error.attempts == len(server.asked)
    assert error.seconds == pytest.approx(120)
    text = str(error)
    assert "s3://bucket/data/object" in text
    assert f"after {error.attempts} attempts in 120.0 s" in text
    assert max(clock.slept) <= 15
    other = pickle.loads(pickle.dumps(error))
    assert (other.attempts, other.seconds, str(other)) == (error.attempts, error.seconds, text)


async def test_a_wrong_host_is_given_up_sooner(clock: ManualClock) -> None:
    for endpoint, message in (
        ("http://no-such-host.invalid", "'no-such-host.invalid' is unknown.*endpoint_url"),
        ("http://127.0.0.1:1", "no connection to 127.0.0.1:1"),
    ):
        inner = S3Store("s3://bucket", {"endpoint_url": endpoint, "anon": True})
        before = clock.now
        async with retrying(inner, clock) as store:
            with pytest.raises(StoreUnavailableError, match=message):
                await store.get("a")
        assert clock.now - before == pytest.approx(20)


async def test_what_counts_is_the_time_without_a_byte(clock: ManualClock) -> None:
    """An hour of failures, each after a new byte, is no reason to give up."""
    inner = MemoryStore()
    await inner.put("a", DATA[:400])
    fault = Fault(error=ShortBodyError("short", url="x"), after_nbytes=1)
    policy = RetryPolicy(backoff=Backoff(first_s=10, cap_s=10), give_up_after_s=30)
    store = retrying(FaultStore(inner, in_turn([fault] * 399)), clock, policy)
    assert await store.get_range("a", 0, 400) == DATA[:400]
    assert sum(clock.slept) > 2000
    assert set(clock.slept) == {7.5}


async def test_the_whole_schedule(clock: ManualClock) -> None:
    inner = MemoryStore()
    await inner.put("a", b"1")
    retried: list[StoreError] = []
    store = RetryStore(
        FaultStore(inner, in_turn([SOON] * 5)),
        RetryPolicy(backoff=Backoff(first_s=1, cap_s=8)),
        clock=clock,
        sleep=clock.sleep,
        random=lambda: 0.0,
        on_retry=retried.append,
    )
    assert (await store.head("a")).size == 1
    assert clock.slept == [0.5, 1, 2, 4, 4]
    assert len(retried) == 5


async def test_listing_goes_on_behind_the_last_key(clock: ManualClock) -> None:
    inner = MemoryStore()
    for key in "abcdefgh":
        await inner.put(key, b"")
    choose = in_turn([Fault(error=StoreTimeoutError("late", url="x"), after_nbytes=2)] * 3)
    store = retrying(FaultStore(inner, choose), clock)
    assert [info.key async for info in store.list()] == list("abcdefgh")
    assert len(clock.slept) == 3


async def test_writes_are_repeated_where_that_is_harmless(clock: ManualClock) -> None:
    inner = MemoryStore()
    store = retrying(FaultStore(inner, in_turn([SOON, None] * 3)), clock)
    await store.put("a", b"1")
    await store.copy("a", "b")
    await store.delete("a")
    assert [info.key async for info in inner.list()] == ["b"]
    assert len(clock.slept) == 3
    counting = CountingStore(FaultStore(inner, in_turn([SOON])))
    store = retrying(counting, clock)
    with pytest.raises(StoreUnavailableError):
        await store.put("c", b"1", if_absent=True)
    assert counting.seen.by_verb() == {"put": 1}
    with pytest.raises(ObjectExistsError):
        await store.put("b", b"1", if_absent=True)


async def test_large_streams_are_repeated_part_by_part(
    server: FaultyServer, clock: ManualClock
) -> None:
    """Two parts; the first is refused once, and only that part goes up again."""
    upload = b"<R><UploadId>id</UploadId></R>"
    done = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
    etag = {"ETag": '"part"'}
    server.answers.extend(
        [
            Answer(status=200, body=upload),
            Answer(status=503),
            Answer(status=200, headers=etag),
            Answer(status=200, headers=etag),
            Answer(status=503),
            Answer(status=200, body=done),
        ]
    )

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(PART_NBYTES)
        yield bytes(1000)

    async with retrying(over_http(server, 30), clock) as store:
        await store.put_stream("object", chunks())
    assert len(clock.slept) == 2
    sizes = [int(a.headers.get("content-length", "0")) for a in server.asked if a.method == "PUT"]
    assert sorted(sizes) in ([1000, PART_NBYTES, PART_NBYTES], [1000, 1000, PART_NBYTES])


async def test_a_lost_answer_to_the_last_call_of_an_upload(
    server: FaultyServer, clock: ManualClock
) -> None:
    """The upload was completed, so it is no more; the object that it made is recognised."""
    etag = {"ETag": '"part"'}
    gone = b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>"
    whole = {"ETag": '"abc-2"', "Content-Length": str(PART_NBYTES + 1000)}
    server.answers.extend(
        [
            Answer(status=200, body=b"<R><UploadId>id</UploadId></R>"),
            Answer(status=200, headers=etag),
            Answer(status=200, headers=etag),
            Answer(silent=True, then="close"),
            Answer(status=404, body=gone),
            Answer(status=200, headers=whole),
        ]
    )

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(PART_NBYTES + 1000)

    async with retrying(over_http(server, 30), clock) as store:
        await store.put_stream("object", chunks())
    assert [asked.method for asked in server.asked][3:] == ["POST", "POST", "HEAD"]


async def test_a_server_that_does_not_read_is_a_stall(server: FaultyServer, store: Store) -> None:
    server.answers.append(Answer(unread=True, silent=True, then="stall"))
    server.answers.append(Answer(status=200))
    await store.put("object", bytes(PART_NBYTES))
    assert [asked.method for asked in server.asked] == ["PUT", "PUT"]
    server.release.set()


@pytest.fixture
def environment() -> Iterator[os._Environ[str]]:
    """The process's variables; put back afterwards."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


async def test_a_bucket_in_another_region_is_followed(
    server: FaultyServer, environment: os._Environ[str]
) -> None:
    environment["AWS_ENDPOINT_URL"] = server.url
    moved = Answer(status=301, headers={"x-amz-bucket-region": "eu-west-1"})
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-west-2"}
    path = {"config": Config(s3={"addressing_style": "path"})}
    async with S3Store("s3://bucket/data", {**keys, **path}) as store:
        server.answers.append(moved)
        async with asyncio.TaskGroup() as group:
            for at in range(3):
                group.create_task(store.get_range("object", at, at + 10))
        assert await store.get_range("object", 0, 10) == DATA[:10]
        regions = [asked.headers["authorization"].split("/")[2] for asked in server.asked]
        assert regions[0] == "us-west-2"
        assert regions[-1] == "eu-west-1"
        assert len(regions) == 5
        server.answers.extend([moved] * 2)
        with pytest.raises(StoreError, match="region eu-west-1"):
            await store.get_range("object", 0, 10)


async def test_a_loop_that_ends_can_close_what_is_open(server: FaultyServer) -> None:
    """For stores that nobody closed."""
    stores = [over_http(server) for _ in range(3)]
    for store in stores:
        assert await store.get_range("object", 0, 10) == DATA[:10]
    await aclose_all()
    await server.no_connections()


@pytest.mark.parametrize("silent", [True, False])
async def test_cancelling_leaves_no_connection(
    server: FaultyServer, store: Store, silent: bool
) -> None:
    server.answers.append(Answer(silent=silent, after_nbytes=1000, then="stall"))
    out = bytearray(len(DATA))
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(store.read_into("object", 0, memoryview(out)))
        await server.stalled.wait()
        reading.cancel()
    assert reading.cancelled()
    await server.no_connections()
    assert not {task for task in asyncio.all_tasks() - before if not task.done()}
    assert await store.get_range("object", 0, 10) == DATA[:10]


async def test_leaving_a_stream_drops_its_connection(server: FaultyServer, store: Store) -> None:
    server.answers.append(Answer(after_nbytes=1000, then="stall"))
    async with store.stream("object") as pieces:
        assert DATA.startswith(await anext(pieces))
    await server.no_connections()


async def test_connections_are_kept_and_bounded(server: FaultyServer) -> None:
    options = {"endpoint_url": server.url, "anon": True, "max_connections": 3}
    most = 0

    def progress(count: int) -> None:
        nonlocal most
        most = max(most, server.open_connections)

    async with S3Store("s3://bucket/data", options) as store:
        out = bytearray(1000)
        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(
                    store.read_into("object", 0, memoryview(out), on_progress=progress)
                )
        assert most == 3
        assert server.open_connections == 3
    await server.no_connections()


class TestHedging:
    """A second request after a stall: it helps, it mixes nothing, it leaves nothing."""

    async def read(
        self, server: FaultyServer, hedge_after_s: float = 0.05, whole: bool = False
    ) -> bytes:
        inner = S3Store(
            "s3://bucket/data",
            {"endpoint_url": server.url, "anon": True, "stall_timeout_s": 30},
        )
        policy = RetryPolicy(hedge_after_s=hedge_after_s)
        async with RetryStore(inner, policy) as store:
            if whole:
                return await store.get("object")
            return await store.get_range("object", 0, len(DATA))

    @pytest.mark.parametrize("whole", [False, True])
    @pytest.mark.parametrize(
        "stall",
        [Answer(silent=True, then="stall"), Answer(after_nbytes=100_000, then="stall")],
    )
    async def test_a_stall_costs_little(
        self, server: FaultyServer, stall: Answer, whole: bool
    ) -> None:
        server.answers.append(stall)
        async with asyncio.timeout(10):
            assert await self.read(server, whole=whole) == DATA
        assert len(server.asked) >= 2
        await server.no_connections()

    @pytest.mark.parametrize("count", [1, 2, 3])
    async def test_a_whole_object_goes_on_after_a_failure(
        self, server: FaultyServer, count: int
    ) -> None:
        server.answers.extend([Answer(after_nbytes=100_000, then="reset")] * count)
        assert await self.read(server, hedge_after_s=30, whole=True) == DATA
        starts = [asked.headers.get("range") for asked in server.asked]
        assert starts[0] is None
        assert None not in starts[1:]
        server.objects[PATH] = b""
        assert await self.read(server, whole=True) == b""

    @pytest.mark.parametrize("replacement", [bytes(len(DATA)), DATA + b"more"])
    async def test_a_whole_object_is_of_one_version(
        self, server: FaultyServer, replacement: bytes
    ) -> None:
        server.answers.append(Answer(after_nbytes=100_000, then="reset", replace_with=replacement))
        with pytest.raises(ObjectChangedError):
            await self.read(server, hedge_after_s=30, whole=True)

    async def test_a_replaced_object_is_not_mixed(self, server: FaultyServer) -> None:
        server.answers.append(
            Answer(after_nbytes=100_000, then="stall", replace_with=bytes(len(DATA)))
        )
        # The second request is refused; the first one's stall then ends the attempt.
        inner = S3Store(
            "s3://bucket/data",
            {"endpoint_url": server.url, "anon": True, "stall_timeout_s": 0.5},
        )
        async with RetryStore(inner, RetryPolicy(hedge_after_s=0.05)) as store:
            with pytest.raises(ObjectChangedError):
                await store.get_range("object", 0, len(DATA))

    async def test_errors_are_those_of_a_single_request(self, server: FaultyServer) -> None:
        server.answers.extend([Answer(status=404)] * 2)
        with pytest.raises(ObjectNotFoundError):
            await self.read(server)
        server.answers.clear()
        server.answers.append(Answer(after_nbytes=10, then="reset"))
        assert await self.read(server, hedge_after_s=30) == DATA

    async def test_cancelling_ends_both(self, server: FaultyServer) -> None:
        server.answers.extend([Answer(silent=True, then="stall")] * 2)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self.read(server))
            await server.stalled.wait()
            reading.cancel()
        assert reading.cancelled()
        await server.no_connections()
