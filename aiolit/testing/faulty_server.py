"""A small HTTP server that does what a test tells it to."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import md5
from socket import SO_LINGER, SOL_SOCKET
from typing import Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

_PATIENCE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request is answered; unset, as it should be.

    Attributes:
        status: Instead of 200 or 206; there is no body then but ``body``.
        headers: Set over the right ones; None removes one.
        body: Instead of the object's bytes.
        after_nbytes: How much of the body is sent before ``then``.
        then: What follows it: "close", "reset" or "stall".
        cut: Answer a GET with so many of the bytes, and with headers that say so.
        ignore_range: Send the whole object with a 200.
        silent: Send nothing at all before ``then``.
        unread: Leave the request's body unread, so that a large one cannot be sent.
        replace_with: The object's bytes from then on.
        after: What is waited for before anything is sent.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    after_nbytes: int | None = None
    then: str = ""
    cut: int | None = None
    ignore_range: bool = False
    silent: bool = False
    unread: bool = False
    replace_with: bytes | None = None
    after: asyncio.Event | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


class FaultyServer:
    """Objects over HTTP/1.1, with ranges and etags, and faults as it is told.

    Objects can be read, written (``If-None-Match`` is heeded) and deleted. It lives on the test's
    own loop, at a free port of 127.0.0.1.

    Attributes:
        objects: By path, with the slash at its beginning.
        rule: Chooses the answer to a request; None, or what it returns None for, is answered by
            ``answers``.
        answers: One for each request to come; those after the last are answered properly.
        asked: The requests so far.
        url: Where it listens.
        stalled: Set when a "stall" has begun, or an answer waits for its ``after``.
        release: Set it to end the stall of an unread request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.rule: Callable[[Asked], Answer | None] | None = None
        self.answers: deque[Answer] = deque()
        self.asked: list[Asked] = []
        self.url = ""
        self.open_connections = 0
        self.stalled = asyncio.Event()
        self.release = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self.no_connections()

    async def no_connections(self) -> None:
        """Wait until every client has gone.

        Raises:
            TimeoutError: One has not, after some seconds.
        """
        async with asyncio.timeout(_PATIENCE_S):
            await self._quiet.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        self._quiet.clear()
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.open_connections -= 1
            if not self.open_connections:
                self._quiet.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        asked = _parse(await reader.readuntil(b"\r\n\r\n"))
        self.asked.append(asked)
        answer = self._choose(asked)
        sent = b""
        if not answer.unread:
            sent = await reader.readexactly(int(asked.headers.get("content-length", "0")))
        if answer.after is not None:
            self.stalled.set()
            await answer.after.wait()
        head, body = self._compose(asked, answer, sent)
        if not answer.silent:
            writer.write(head + body[: answer.after_nbytes])
            await writer.drain()
        if answer.replace_with is not None:
            self.objects[asked.path] = answer.replace_with
        if answer.then == "stall":
            self.stalled.set()
            if answer.unread:
                # The end of the request is behind its unread body, and so would not be seen.
                await self.release.wait()
            await reader.read()  # until the client goes
        if answer.then == "reset":
            transport = writer.transport
            transport.get_extra_info("socket").setsockopt(
                SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0)
            )
        return not answer.then

    def _choose(self, asked: Asked) -> Answer:
        found = None if self.rule is None else self.rule(asked)
        return found or (self.answers.popleft() if self.answers else Answer())

    def _compose(self, asked: Asked, answer: Answer, sent: bytes) -> tuple[bytes, bytes]:
        data = self.objects.get(asked.path)
        headers: dict[str, str | None] = {"Content-Type": "application/octet-stream"}
        status, body = 404, b""
        if asked.method == "DELETE":
            status = 204
            if answer.status is None:
                self.objects.pop(asked.path, None)
        elif asked.method == "PUT":
            status = 412 if data is not None and "if-none-match" in asked.headers else 200
            if answer.status is None and status == 200 and not answer.unread:
                self.objects[asked.path] = sent
                headers["ETag"] = _etag(sent)
        elif asked.method == "GET" and "list-type=2" in asked.path:
            status, body = 200, self._listing(asked.path)
        elif data is not None:
            status, body = 200, data
            headers["ETag"] = _etag(data)
            wanted = asked.headers.get("range", "")
            if asked.headers.get("if-match") not in (None, headers["ETag"]):
                status, body = 412, b""
            elif wanted and not answer.ignore_range:
                start, _, last = wanted.removeprefix("bytes=").partition("-")
                body = data[int(start) : int(last) + 1 if last else None]
                status, body = 206, body[: answer.cut]
                end = int(start) + len(body)
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        if answer.status is not None:
            status, body = answer.status, b""
        if asked.method != "HEAD":
            body = body[: answer.cut]
        body = body if answer.body is None else answer.body
        headers |= {"Content-Length": str(len(body)), **answer.headers}
        lines = [f"{name}: {text}\r\n" for name, text in headers.items() if text is not None]
        head = f"HTTP/1.1 {status} Whatever\r\n{''.join(lines)}\r\n".encode()
        return head, b"" if asked.method == "HEAD" else body

    def _listing(self, path: str) -> bytes:
        """Return S3's listing of all objects of a bucket below a prefix, on one page."""
        bucket, _, query = path.partition("?")
        begin = f"{bucket.rstrip('/')}/"
        prefix = begin + dict(parse_qsl(query)).get("prefix", "")
        found = [
            f"<Contents><Key>{escape(key.removeprefix(begin))}</Key><Size>{len(data)}</Size>"
            f"<ETag>{escape(_etag(data))}</ETag></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        ]
        return f"<ListBucketResult>{''.join(found)}</ListBucketResult>".encode()


def _etag(data: bytes) -> str:
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'


def _parse(head: bytes) -> Asked:
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(": ") for line in lines if line)
    return Asked(method, path, {name.lower(): text for name, _, text in pairs})
