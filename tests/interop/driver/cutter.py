"""A relay in front of ziggurat that cuts every connection in the middle of an event stream, as middleboxes do."""

import asyncio
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

# What a connection may carry from the first head of an event stream on.
ALLOWANCE = 8 << 10


class Cutter:
    def __init__(self, host, port, most):
        self.host, self.port, self.most, self.cuts, self.tasks = host, port, most, 0, set()

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        there = None
        try:
            back, there = await asyncio.open_connection(self.host, self.port)
            forth = asyncio.ensure_future(self.forward(reader, there))
            await self.back(back, writer)
            forth.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            for end in (writer, there):
                if end:
                    end.close()

    async def forward(self, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the client has reset its connection
        writer.close()

    async def back(self, reader, writer):
        left = None
        while data := await reader.read(1 << 12):
            if left is None and self.cuts < self.most and b"text/event-stream" in data:
                left = ALLOWANCE
            if left is not None:
                data, left = data[:left], left - len(data)
            writer.write(data)
            await writer.drain()
            if left is not None and left <= 0:
                self.cuts += 1
                return


@asynccontextmanager
async def cutting(url, most):
    """Yields the URL of the relay, and the relay, which counts its cuts, and makes no more than `most`."""
    where = urlsplit(url)
    cutter = Cutter(where.hostname, where.port, most)
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{where.path}", cutter
    finally:
        server.close()
        for task in list(cutter.tasks):
            task.cancel()
