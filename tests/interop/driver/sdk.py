"""The official SDKs' clients against every server, directly and through ziggurat, item by item."""

import asyncio
import json
from contextlib import AsyncExitStack

from cutter import cutting
from processes import NODE, ROOT, TAG, TOKEN, WORK, spawned, ziggurat
from servers import EVERYTHING, FIXTURE_PY, FIXTURE_TS, LEGACY_PY

SERVERS = (EVERYTHING, FIXTURE_TS, FIXTURE_PY, LEGACY_PY)
CLIENTS = {
    "ts1": ((NODE, WORK / "clients/ts1.mjs"), ("legacy",)),
    "ts2": ((NODE, WORK / "clients/ts2.mjs"), ("legacy", "modern")),
    "py": ((WORK / "py/bin/python", WORK / "clients/python.py"), ("legacy", "modern")),
}
LEGACY = "connect list call large concurrent progress logging sampling elicitation roots subscribe cancel ping delete".split()
MODERN = "connect unlisted list headers call large concurrent progress logging sampling elicitation rounds subscribe cancel".split()
RULED = "blocked mocked modified streamed paused withdrawn refused".split()
RULES = {"intercept": {"rules": str(ROOT / "rules.yaml")}}
COLUMNS = list(dict.fromkeys([*MODERN, *LEGACY, "resume", *RULED, "fail", "crash"]))
PROXY_ONLY = {"resume", *RULED, "fail", "crash"}


def items_of(server, era):
    """What is asked of this server in this era; server-everything alone asks for roots, and has no tool for large answers."""
    everything = server.profile == "everything"
    items = MODERN if era == "modern" else LEGACY
    return [item for item in items if (item != "large" or not everything) and (item != "roots" or everything)]


def fails_directly(client, era, transport, item):
    """What a client cannot do by itself, so that its failing without a proxy is no news.

    - The TypeScript clients over stdio lose progress that arrives in one read with the result.
    - The Python client refuses an event over 1 MiB, and a legacy HTTP server answers with events.
    """
    return (item == "progress" and transport == "stdio" and client.startswith("ts")) or (
        item == "large" and (client, era, transport) == ("py", "legacy", "http")
    )


def must_pass_through(client, era, transport, item):
    """What must pass through ziggurat: all but the event over 1 MiB, which comes to the client as the server sent it."""
    return not (item == "large" and (client, era, transport) == ("py", "legacy", "http"))


def expected(item, direct):
    """What must come through ziggurat. It knows itself that a session is over, and says so as the specification wants, where some servers say 400."""
    return 404 if item == "delete" and direct == 400 else direct


async def ask(name, client, task):
    """One client process; its answer to each item."""
    answers = {}
    async with spawned(name, [*CLIENTS[client][0], json.dumps(task)]) as process:
        try:
            out, _ = await asyncio.wait_for(process.communicate(), 240)
        except asyncio.TimeoutError:
            out = b""
    for line in out.decode().splitlines():
        try:
            answer = json.loads(line)
            answers[answer["item"]] = answer
        except (ValueError, KeyError):
            pass
    return answers


class Row:
    """One client in one era on one server over one transport: a line of the table."""

    def __init__(self, server, transport, client, era, auto):
        self.server, self.transport, self.client, self.era, self.auto = server, transport, client, era, auto
        self.name = f"{server.name} {transport} {client} {era}" + (" (found out)" if auto and era == "legacy" else "")
        self.file = self.name.replace(" ", "-").replace("(", "").replace(")", "")
        self.cells = {}

    def task(self, items, **more):
        return {"era": self.era, "auto": self.auto, "profile": self.server.profile, "items": items, **more}

    def items(self):
        items = items_of(self.server, self.era)
        return ["connect", "list", "call", "progress", "ping"] if self.auto and self.era == "legacy" else items

    def judge(self, report, direct, through):
        extra = [] if through is None or (self.auto and self.era == "legacy") else self.proxy_items()
        for item in [*self.items(), *extra]:
            ok, why = self.verdict(item, direct.get(item), None if through is None else through.get(item, {"ok": False, "error": "did not run"}))
            report(ok, f"{self.name}: {item}", why)

    def proxy_items(self):
        return [*self.cut_items(), *self.ruled_items(), *self.impatient_items()]

    def cut_items(self):
        """A stream can be gone on with where it has ids: ziggurat's own over stdio, and those of a server with an event store."""
        stored = self.transport == "stdio" or self.server in (FIXTURE_TS, FIXTURE_PY)
        return ["resume"] if self.era == "legacy" and self.server.profile == "fixture" and stored else []

    def most_cuts(self):
        """The Python client asks again from the first break on when a stream that it resumed breaks, too, and at the third it gives up."""
        return 1 if self.client == "py" else 100

    def ruled_items(self):
        return RULED if self.server.profile == "fixture" else []

    def impatient_items(self):
        return ["fail", "crash"] if self.transport == "stdio" and self.server.profile == "fixture" else ["fail"]

    def verdict(self, item, direct, through):
        if item not in PROXY_ONLY:
            direct = direct or {"ok": False, "error": "did not run"}
            if not direct["ok"] and not (fails_directly(self.client, self.era, self.transport, item) and direct.get("error") != "did not run"):
                self.cells[item] = "direct"
                return False, f"fails without a proxy: {direct['error']}"
        if through is None:
            self.cells[item] = "ok" if direct["ok"] else "known"
            return True, ""
        if not through["ok"]:
            if through.get("error") != "did not run" and item not in PROXY_ONLY and not must_pass_through(self.client, self.era, self.transport, item):
                self.cells[item] = "alike"
                return True, ""
            self.cells[item] = "FAIL"
            return False, through["error"]
        if item not in PROXY_ONLY and direct["ok"] and expected(item, direct["got"]) != through["got"]:
            self.cells[item] = "DIFF"
            return False, f"directly {json.dumps(direct['got'])[:200]}, through ziggurat {json.dumps(through['got'])[:200]}"
        self.cells[item] = "ok"
        return True, ""


async def ask_cut(row, proxy):
    async with cutting(proxy.url, row.most_cuts()) as (url, cutter):
        answers = await ask(f"{row.file}-cut", row.client, row.task(row.cut_items(), url=url, stdio=row.transport == "stdio"))
    return answers if cutter.cuts else {item: {"ok": False, "error": "no stream was cut"} for item in row.cut_items()}


async def ask_ruled(row, ruled):
    admin = {"url": ruled.admin, "token": TOKEN}
    return await ask(f"{row.file}-ruled", row.client, row.task(row.ruled_items(), url=ruled.url, admin=admin, stdio=row.transport == "stdio"))


async def drive(row, target, proxy, ruled, report):
    """One row: directly, then through the proxy, then with streams that are cut, then through a proxy with rules, then through one that is impatient."""
    where = {"url": target} if isinstance(target, str) else {"command": [*target, TAG]}
    direct = await ask(f"{row.file}-direct", row.client, row.task(row.items(), **where))
    through = None
    if proxy:
        stdio = row.transport == "stdio"
        through = await ask(f"{row.file}-through", row.client, row.task(row.items(), url=proxy.url, stdio=stdio))
        if not (row.auto and row.era == "legacy"):
            if row.cut_items():
                through |= await ask_cut(row, proxy)
            if row.ruled_items():
                through |= await ask_ruled(row, ruled)
            async with ziggurat(f"{row.file}-deadline", target, report, route={"deadline": "8s"}) as failing:
                through |= await ask(f"{row.file}-fail", row.client, row.task(row.impatient_items(), url=failing.url, failing=failing.url, stdio=stdio))
    row.judge(report, direct, through)


async def drive_server(server, transport, rows, through, report, gate):
    async with gate, AsyncExitStack() as stack:
        name = f"{server.name}-{transport}"
        target = await stack.enter_async_context(server.http(name)) if transport == "http" else server.stdio()
        proxy = await stack.enter_async_context(ziggurat(name, target, report)) if through else None
        ruled = None
        if through and any(row.ruled_items() for row in rows):
            ruled = await stack.enter_async_context(ziggurat(f"{name}-ruled", target, report, route=RULES))
        for row in rows:
            await drive(row, target, proxy, ruled, report)


def table(rows):
    width = max(len(row.name) for row in rows)
    sizes = {column: max(len(column), 4) for column in COLUMNS}
    print("\n" + " " * width + "  " + "  ".join(column.ljust(sizes[column]) for column in COLUMNS))
    for row in rows:
        print(row.name.ljust(width) + "  " + "  ".join(row.cells.get(column, "-").ljust(sizes[column]) for column in COLUMNS))
    print("ok: passes; alike: fails as it does directly; known: a limit of the client itself; -: not asked; the rest are failures\n")


async def run(through, report):
    rows, jobs, gate = [], [], asyncio.Semaphore(3)
    for server in SERVERS:
        for transport in ("http", "stdio"):
            mine = []
            for client, (_, eras) in CLIENTS.items():
                for era in eras:
                    if era in server.eras:
                        mine.append(Row(server, transport, client, era, era == "modern"))
                    elif client != "ts1":  # a client that prefers the modern era must find the legacy one behind the proxy, too
                        mine.append(Row(server, transport, client, "legacy", True))
            rows += mine
            jobs.append(drive_server(server, transport, mine, through, report, gate))
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for (server, transport), result in zip([(s, t) for s in SERVERS for t in ("http", "stdio")], results):
        if isinstance(result, BaseException):
            report(False, f"{server.name} {transport}", f"{type(result).__name__}: {result}")
    table(rows)
