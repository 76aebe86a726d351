"""The official Python SDK's client (v2) in either era: the same items as `items.mjs`.

The task comes as JSON in the first argument; each item answers with one line of JSON on stdout: {item, ok, got, error}.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
import warnings
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged

from checks import Failed, check, text_of, until
from ruled import Ruled

warnings.simplefilter("ignore")
TASK = json.loads(sys.argv[1])
ERA, STDIO = TASK["era"], TASK.get("stdio", False)
MESSAGE = 'grüße 🎉 "\\u2028" 9007199254740993'
MODEL = types.CreateMessageResult(
    role="assistant", model="fixed", stop_reason="endTurn", content=types.TextContent(type="text", text="Paris")
)
if TASK["profile"] == "everything":
    OPERATION = "trigger-long-running-operation"
    PROFILE = {
        "listed": "trigger-sampling-request",
        "progress": (OPERATION, {"duration": 0.5, "steps": 5}),
        "steps": 5,
        "slow": lambda key: (OPERATION, {"duration": 30, "steps": 60}),
        "log": "toggle-simulated-logging",
        "logs": 1,
        "sampling": ("trigger-sampling-request", {"prompt": "well?"}),
        "elicitation": ("trigger-elicitation-request", {}),
        "watch": "demo://resource/dynamic/text/1",
        "touch": ("toggle-subscriber-updates", {}),
        "fixture": False,
    }
else:
    ASK = {
        "legacy": (("test_sampling", {"prompt": "well?"}), ("test_elicitation", {"message": "who?"})),
        "modern": (("test_input_required_result_sampling", {}), ("test_input_required_result_elicitation", {})),
    }
    PROFILE = {
        "listed": None,
        "progress": ("count", {"steps": 200}),
        "steps": 200,
        "slow": lambda key: ("slow", {"ms": 30_000, "key": key}),
        "log": "test_tool_with_logging",
        "logs": 3,
        "sampling": ASK[ERA][0],
        "elicitation": ASK[ERA][1],
        "watch": "test://watched-resource",
        "touch": ("touch", {"uri": "test://watched-resource"}),
        "fixture": True,
    }


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


class World(Ruled):
    """One connection, and what came in on it."""

    def __init__(self):
        self.logs, self.updates, self.sampled, self.elicited, self.roots, self.session = [], [], 0, 0, 0, None

    async def on_sampling(self, context, params):
        self.sampled += 1
        return MODEL

    async def on_elicitation(self, context, params):
        self.elicited += 1
        schema = params.requested_schema
        content = {}
        for key in schema.get("required") or schema["properties"]:
            kind = schema["properties"][key]["type"]
            content[key] = True if kind == "boolean" else "ada@example.com" if key == "email" else "Ada"
        return types.ElicitResult(action="accept", content=content)

    async def on_roots(self, context):
        self.roots += 1
        return types.ListRootsResult(roots=[types.Root(uri="file:///interop", name="interop")])

    async def on_log(self, params):
        self.logs.append(params)

    async def on_message(self, message):
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updates.append(str(message.params.uri))

    async def on_response(self, response):
        self.session = response.headers.get("mcp-session-id", self.session)

    @asynccontextmanager
    async def connect(self, url=None, command=None):
        async with AsyncExitStack() as stack:
            if url:
                http = await stack.enter_async_context(create_mcp_http_client())
                http.event_hooks["response"].append(self.on_response)
                target = streamable_http_client(url, http_client=http)
            else:
                target = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
            self.client = await stack.enter_async_context(
                Client(
                    target,
                    mode="auto" if TASK.get("auto") else "legacy",
                    read_timeout_seconds=40,
                    sampling_callback=self.on_sampling,
                    elicitation_callback=self.on_elicitation,
                    list_roots_callback=self.on_roots,
                    logging_callback=self.on_log,
                    message_handler=self.on_message,
                    log_level="debug" if ERA == "modern" else None,
                    client_info=types.Implementation(name="interop-py", version="1.0.0"),
                )
            )
            yield self

    async def tool(self, name, arguments=None, **more):
        return text_of(await self.client.call_tool(name, arguments or {}, **more))

    async def echo(self):
        text = await self.tool("echo", {"message": MESSAGE})
        check(MESSAGE in text, f"echoed {text}")
        return text

    async def item_connect(self):
        version = self.client.protocol_version
        check((version >= "2026") == (ERA == "modern"), f"negotiated {version}")
        return {"version": version, "server": self.client.server_info.name}

    async def item_list(self):
        async def listed():
            tools = (await self.client.list_tools(cache_mode="refresh")).tools
            return tools if not PROFILE["listed"] or any(tool.name == PROFILE["listed"] for tool in tools) else None

        tools = [tool.model_dump(mode="json", by_alias=True) for tool in await until("the whole tool list", listed)]
        return {"count": len(tools), "hash": hashlib.sha256(json.dumps(tools).encode()).hexdigest()}

    async def item_call(self):
        return await self.echo()

    async def item_large(self):
        length = len(await self.tool("large", {"bytes": 2 << 20}))
        check(length == 2 << 20, f"{length} bytes")
        return length

    async def item_headers(self):
        return await self.tool("test_custom_headers", {"region": "zürich ", "shard": 42, "note": "free"})

    item_unlisted = item_headers

    async def item_concurrent(self):
        texts = {}

        async def one(n):
            texts[n] = await self.tool("echo", {"message": f"message {n}"})

        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(one, n)
        check(all(text.endswith(f"message {n}") for n, text in texts.items()), f"crossed: {texts}")
        return [texts[n] for n in range(20)]

    async def item_progress(self):
        seen = []

        async def on_progress(progress, total, message):
            seen.append(progress)

        name, arguments = PROFILE["progress"]
        text = await self.tool(name, arguments, progress_callback=on_progress)
        at_result = len(seen)
        await self.echo()
        steps = PROFILE["steps"]
        check(len(seen) == at_result == steps, f"{at_result} of {steps} before the result, {len(seen)} in all")
        check(seen == list(range(1, steps + 1)), f"out of order: {seen}")
        return {"seen": seen, "text": text}

    async def item_logging(self):
        if ERA == "legacy":
            await self.client.set_logging_level("debug")
        self.logs.clear()

        def logs():
            return [{"level": log.level, "data": log.data} for log in self.logs if "Subscribe" not in str(log.data)]

        async def enough():
            return len(logs()) >= PROFILE["logs"]

        await self.tool(PROFILE["log"])
        await until("log messages", enough)
        if PROFILE["logs"] == 1:
            await self.tool(PROFILE["log"])
            return "some"
        return logs()

    async def item_sampling(self):
        text = await self.tool(*PROFILE["sampling"])
        check("Paris" in text and self.sampled, f"answered {text}")
        return text

    async def item_elicitation(self):
        text = await self.tool(*PROFILE["elicitation"])
        check("Ada" in text and self.elicited, f"answered {text}")
        return text

    async def item_rounds(self):
        self.elicited = 0
        text = await self.tool("test_input_required_result_multi_round")
        check(text == "multi-round-ok" and self.elicited == 2, f"{text} after {self.elicited} questions")
        many = await self.tool("test_input_required_result_multiple_inputs")
        prompt = await self.client.get_prompt("test_input_required_result_prompt")
        return {"text": text, "many": many, "messages": [m.model_dump(mode="json") for m in prompt.messages]}

    async def item_roots(self):
        async def asked():
            return self.roots

        await until("roots/list", asked)
        return "asked"

    async def item_subscribe(self):
        if ERA == "modern":
            async with self.client.listen(tools_list_changed=True, resource_subscriptions=[PROFILE["watch"]]) as events:
                await self.tool(*PROFILE["touch"])
                event = await anext(events)
                check(event == ResourceUpdated(uri=PROFILE["watch"]), f"got {event}")
                await self.tool("test_trigger_tool_change")
                event = await anext(events)
                check(event == ToolsListChanged(), f"got {event}")
            return "updated, changed"
        self.updates.clear()
        await self.client.subscribe_resource(PROFILE["watch"])
        if not PROFILE["fixture"]:
            await self.tool(*PROFILE["touch"])

        async def updated():
            if PROFILE["fixture"]:
                await self.tool(*PROFILE["touch"])
            await anyio.sleep(0.05)
            return PROFILE["watch"] in self.updates

        await until("an update", updated)
        await self.client.unsubscribe_resource(PROFILE["watch"])
        if not PROFILE["fixture"]:
            await self.tool(*PROFILE["touch"])
        return "updated"

    async def item_cancel(self):
        key, started, outcome = str(uuid.uuid4()), anyio.Event(), []

        async def on_progress(progress, total, message):
            started.set()

        async def slow():
            name, arguments = PROFILE["slow"](key)
            await self.client.call_tool(name, arguments, progress_callback=on_progress, read_timeout_seconds=60)
            outcome.append("finished")

        async with anyio.create_task_group() as group:
            group.start_soon(slow)
            await started.wait()
            group.cancel_scope.cancel()
        check(not outcome, "the call went on")

        async def told():
            return json.loads(await self.tool("stats", {"key": key}))["cancelled"]

        if PROFILE["fixture"]:
            await until("the server to be told", told)
        await self.echo()
        return "cancelled"

    async def item_resume(self):
        """Through ziggurat only, by way of a relay that cuts the stream again and again: the SDK comes back for the rest."""
        return await self.item_progress()

    async def item_ping(self):
        await self.client.send_ping()
        return "pong"

    async def item_fail(self):
        session, started = self.session, time.monotonic()
        name, arguments = PROFILE["slow"]("late")
        try:
            await self.client.call_tool(name, arguments, read_timeout_seconds=60)
        except MCPError as error:
            data = error.error.data
            check(isinstance(data, dict) and data.get("source") == "proxy", f"not an error of the proxy: {error.error}")
            got = {"code": error.error.code, "kind": data.get("kind")}
        else:
            raise Failed("the slow call succeeded")
        check(time.monotonic() - started < 25, "the deadline came late")
        await self.echo()
        check(self.session == session, "the session changed")
        return got

    async def item_crash(self):
        try:
            await self.client.call_tool("crash", {}, read_timeout_seconds=60)
        except MCPError as error:
            data = error.error.data
            check(isinstance(data, dict) and data.get("source") == "proxy", f"not an error of the proxy: {error.error}")
        else:
            raise Failed("the call of a dead child succeeded")

        async def recovered():
            try:
                if ERA == "modern":
                    return await self.echo()
                async with World().connect(url=TASK["failing"]) as next:
                    return await next.echo()
            except Exception:  # the next child may be slow to start
                return None

        await until("the next child", recovered)
        return "recovered"

    async def pid(self):
        return json.loads(await self.tool("stats"))["pid"] if STDIO and PROFILE["fixture"] else None


def status_of_ended(session, version):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    headers = {
        "content-type": "application/json", "accept": "application/json, text/event-stream",
        "mcp-session-id": session, "mcp-protocol-version": version,
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(TASK["url"], body, headers), timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


async def after_delete(pid, session, version):
    if pid:

        async def gone():
            return not alive(pid)

        await until("the child to end", gone)
    if "url" not in TASK:
        return "closed"
    status = await anyio.to_thread.run_sync(status_of_ended, session, version)
    check(status == 404 or (status == 400 and not STDIO and not PROFILE["fixture"]), f"a call of the ended session got {status}")
    return "closed" if STDIO else status


async def attempt(item, work, *args):
    try:
        with anyio.fail_after(45):
            answer = {"item": item, "ok": True, "got": await work(*args)}
    except Exception as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        answer = {"item": item, "ok": False, "error": f"{type(error).__name__}: {error}"[:600]}
    print(json.dumps(answer, ensure_ascii=False), flush=True)


async def attempt_failing(item):
    # Where the deadline is short, a child may be slow to start: connecting is not what is tested there.
    for _ in range(3):
        attempted = False
        try:
            async with World().connect(url=TASK["failing"]) as failing:
                attempted = True
                await attempt(item, getattr(failing, f"item_{item}"))
        except Exception as error:
            problem = error
        if attempted:
            return
    print(json.dumps({"item": item, "ok": False, "error": f"cannot connect: {problem!r}"[:600]}), flush=True)


async def main():
    world, pid = World(), None
    async with world.connect(TASK.get("url"), TASK.get("command")):
        version = world.client.protocol_version
        for item in TASK["items"]:
            if item == "delete":
                pid = await world.pid()
            elif item not in ("fail", "crash"):
                await attempt(item, getattr(world, f"item_{item}"))
    if "delete" in TASK["items"]:
        await attempt("delete", after_delete, pid, world.session, version)
    for item in ("fail", "crash"):
        if item in TASK["items"]:
            await attempt_failing(item)


anyio.run(main)
