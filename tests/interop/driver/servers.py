"""The MCP servers of the suite, each over HTTP and over stdio."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import processes
from processes import MODULES, NODE, WORK


@dataclass(frozen=True)
class Server:
    name: str
    command: tuple
    eras: tuple
    profile: str = "fixture"
    words: tuple = ("http", "stdio")

    def stdio(self):
        return [*map(str, self.command), self.words[1]]

    @asynccontextmanager
    async def http(self, name):
        argv = [*self.command, self.words[0]]
        if self.profile == "everything":  # it takes its port from the environment, and says nothing that a program could read
            port = processes.free_port()
            async with processes.server(name, argv, {"PORT": str(port)}, port) as url:
                yield url
        else:
            async with processes.server(name, argv) as url:
                yield url


FIXTURE_TS = Server("fixture-ts", (NODE, WORK / "servers/fixture.mjs"), ("legacy", "modern"))
FIXTURE_PY = Server("fixture-py", (WORK / "py/bin/python", WORK / "servers/fixture.py"), ("legacy", "modern"))
LEGACY_PY = Server("legacy-py", (WORK / "py1/bin/python", WORK / "servers/legacy.py"), ("legacy",))
EVERYTHING = Server(
    "everything",
    (NODE, MODULES / "@modelcontextprotocol/server-everything/dist/index.js"),
    ("legacy",),
    "everything",
    ("streamableHttp", "stdio"),
)
