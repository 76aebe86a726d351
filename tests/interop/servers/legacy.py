"""A server on the last 1.x of the official Python SDK: the legacy era alone.

`legacy.py stdio`, or `legacy.py http`, which prints {"url": ...} on one line and serves on a free loopback port.
"""

import json
import os
import socket
import sys

import anyio
import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import SamplingMessage, TextContent
from pydantic import BaseModel

server = FastMCP("ziggurat-legacy-py", log_level="WARNING")
cancelled = set()
watchers = {}


class Person(BaseModel):
    username: str
    email: str


@server.tool()
def echo(message: str) -> str:
    return message


@server.tool()
def large(bytes: int) -> str:
    return "x" * bytes


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"{step} of {steps}")
    return f"counted to {steps}"


@server.tool()
async def slow(ms: int, key: str, ctx: Context) -> str:
    await ctx.report_progress(0, 1)
    try:
        await anyio.sleep(ms / 1000)
    except anyio.get_cancelled_exc_class():
        cancelled.add(key)
        raise
    return "done"


@server.tool()
def stats(key: str = "") -> str:
    return json.dumps({"pid": os.getpid(), "cancelled": key in cancelled})


@server.tool()
async def touch(uri: str) -> str:
    for session in list(watchers.get(uri, ())):
        await session.send_resource_updated(uri)
    return f"touched {uri}"


@server.tool()
def crash() -> str:
    os._exit(1)


@server.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    await ctx.info("Tool execution started")
    await ctx.info("Tool processing data")
    await ctx.info("Tool execution completed")
    return "Logged three messages."


@server.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content.text}"


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    answer = await ctx.elicit(message, Person)
    return f"Elicitation completed: action={answer.action}, content={answer.data.model_dump_json()}"


@server.resource("test://watched-resource")
def watched() -> str:
    return "Watched resource content"


@server._mcp_server.subscribe_resource()
async def subscribe(uri):
    watchers.setdefault(str(uri), set()).add(server._mcp_server.request_context.session)


@server._mcp_server.unsubscribe_resource()
async def unsubscribe(uri):
    watchers.get(str(uri), set()).discard(server._mcp_server.request_context.session)


@server._mcp_server.set_logging_level()
async def set_level(level):
    pass


if sys.argv[1] == "http":
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])
else:
    server.run("stdio")
