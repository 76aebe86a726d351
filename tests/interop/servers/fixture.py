"""The fixture server on the official Python SDK (v2), both eras.

`fixture.py stdio`, or `fixture.py http`, which prints {"url": ...} on one line and serves on a free loopback port.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import sys
import warnings
from pathlib import Path

import anyio
import mcp_types as types
import uvicorn
from mcp.server import Server
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ResourceUpdated, ToolsListChanged,
)
from mcp.shared.exceptions import MCPError

warnings.simplefilter("ignore")
CATALOG = json.loads(Path(__file__).with_name("catalog.json").read_text())
CAPABILITY = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
KEY = secrets.token_bytes(32)
bus = InMemorySubscriptionBus()
cancelled = set()
watchers = {}  # legacy: uri -> {connection: a session of the client that subscribed}


def modern(ctx):
    return ctx.protocol_version >= "2026"


def text(line):
    return {"content": [{"type": "text", "text": line}]}


def seal(state):
    return f"{state}.{hmac.new(KEY, state.encode(), hashlib.sha256).hexdigest()}"


def unseal(sealed):
    state = sealed.rpartition(".")[0]
    if not hmac.compare_digest(seal(state), sealed):
        raise MCPError(types.INVALID_PARAMS, "requestState failed its integrity check")
    return state


def ask(questions, state=None):
    result = {"resultType": "input_required", "inputRequests": questions}
    return result if state is None else {**result, "requestState": seal(state)}


def answered(questions, params):
    given = params.input_responses or {}

    def fits(method, answer):
        if method == "elicitation/create":
            return getattr(answer, "action", None) == "accept" and answer.content is not None
        return answer is not None and hasattr(answer, "content" if method == "sampling/createMessage" else "roots")

    return all(fits(question["method"], given.get(key)) for key, question in questions.items())


async def log(ctx, line):
    await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)


async def announce(ctx, event):
    if modern(ctx):
        await bus.publish(event)
    elif isinstance(event, ToolsListChanged):
        await ctx.session.send_tool_list_changed()
    elif isinstance(event, PromptsListChanged):
        await ctx.session.send_prompt_list_changed()
    else:
        for session in list(watchers.get(event.uri, {}).values()):
            await session.send_resource_updated(event.uri)


async def call(ctx, params):
    name, args = params.name, params.arguments or {}
    questions = CATALOG["questions"].get(name)
    if name == "echo":
        return text(args["message"])
    if name == "large":
        return text("x" * args["bytes"])
    if name == "count":
        for step in range(1, args["steps"] + 1):
            await ctx.session.report_progress(step, args["steps"], f"{step} of {args['steps']}")
        return text(f"counted to {args['steps']}")
    if name == "slow":
        await ctx.session.report_progress(0, 1)
        try:
            await anyio.sleep(args["ms"] / 1000)
        except anyio.get_cancelled_exc_class():
            cancelled.add(args["key"])
            raise
        return text("done")
    if name == "stats":
        return text(json.dumps({"pid": os.getpid(), "cancelled": args.get("key") in cancelled}))
    if name == "touch":
        await announce(ctx, ResourceUpdated(uri=args["uri"]))
        return text(f"touched {args['uri']}")
    if name == "crash":
        os._exit(1)
    if name == "test_tool_with_logging":
        await log(ctx, "Tool execution started")
        await anyio.sleep(0.05)
        await log(ctx, "Tool processing data")
        await anyio.sleep(0.05)
        await log(ctx, "Tool execution completed")
        return text("Logged three messages.")
    if name == "test_logging_tool":
        await log(ctx, "One message")
        return text("Logged one message.")
    if name == "test_tool_with_progress":
        for step in (0, 50, 100):
            await ctx.session.report_progress(step, 100, f"{step} of 100")
            if step < 100:
                await anyio.sleep(0.05)
        return text(str((ctx.meta or {}).get("progress_token", "")))
    if name == "test_error_handling":
        return {**text("This tool intentionally returns an error for testing"), "isError": True}
    if name == "test_sampling":
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=args["prompt"]))
        answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
        return text(f"LLM response: {answer.content.text}")
    if name in CATALOG["forms"]:
        message = args.get("message", "Please fill in the form")
        answer = await ctx.session.elicit_form(message, CATALOG["forms"][name], related_request_id=ctx.request_id)
        return text(f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}")
    if name == "test_custom_headers":
        return text(json.dumps(args))
    if name == "test_reconnection":
        if ctx.close_sse_stream:
            await ctx.close_sse_stream()
        await anyio.sleep(0.2)
        return text("Reconnection test completed")
    if name == "test_missing_capability":
        if not ctx.session.check_client_capability(types.ClientCapabilities(sampling=types.SamplingCapability())):
            raise MCPError(
                types.MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs sampling", {"requiredCapabilities": {"sampling": {}}}
            )
        return text("The client can sample.")
    if name == "test_trigger_tool_change":
        await announce(ctx, ToolsListChanged())
        return text("announced")
    if name == "test_trigger_prompt_change":
        await announce(ctx, PromptsListChanged())
        return text("announced")
    if name == "test_input_required_result_capabilities":
        able = ctx.session.client_capabilities
        questions = {k: q for k, q in questions.items() if able and getattr(able, CAPABILITY[q["method"]]) is not None}
        if not questions or answered(questions, params):
            return text("answered within the capabilities")
        return ask(questions)
    if name == "test_input_required_result_multi_round":
        state = unseal(params.request_state) if params.request_state else None
        second = CATALOG["questions"][f"{name}/2"]
        if state == "2" and answered(second, params):
            return text("multi-round-ok")
        if state == "2" or (state == "1" and answered(questions, params)):
            return ask(second, "2")
        return ask(questions, "1")
    if name.endswith(("_request_state", "_tampered_state", "_multiple_inputs")):
        if params.request_state and unseal(params.request_state) and answered(questions, params):
            return text("state-ok")
        return ask(questions, "1")
    if questions:
        if not answered(questions, params):
            return ask(questions)
        return text("answered: " + json.dumps([params.input_responses[key].model_dump(mode="json") for key in questions]))
    if name in CATALOG["answers"]:
        return {"content": CATALOG["answers"][name]}
    raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name}")


async def call_tool(ctx, params):
    try:
        result = await call(ctx, params)
    except KeyError as missing:
        result = {**text(f"Missing argument: {missing}"), "isError": True}
    kind = types.InputRequiredResult if "resultType" in result else types.CallToolResult
    return kind.model_validate(result)


async def list_tools(ctx, params):
    return types.ListToolsResult.model_validate({"tools": CATALOG["tools"]})


async def list_resources(ctx, params):
    return types.ListResourcesResult.model_validate({"resources": CATALOG["resources"]})


async def list_templates(ctx, params):
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": CATALOG["templates"]})


async def read_resource(ctx, params):
    uri = str(params.uri)
    contents = CATALOG["contents"].get(uri)
    if template := re.fullmatch(r"test://template/([^/]+)/data", uri):
        data = {"id": template[1], "templateTest": True, "data": f"Data for ID: {template[1]}"}
        contents = {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    if contents is None:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [contents]})


async def subscribe(ctx, params):
    watchers.setdefault(str(params.uri), {})[id(ctx.session._connection)] = ctx.session
    return types.EmptyResult()


async def unsubscribe(ctx, params):
    watchers.get(str(params.uri), {}).pop(id(ctx.session._connection), None)
    return types.EmptyResult()


async def list_prompts(ctx, params):
    return types.ListPromptsResult.model_validate({"prompts": CATALOG["prompts"]})


async def get_prompt(ctx, params):
    if params.name not in CATALOG["messages"]:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    questions = CATALOG["questions"].get(params.name)
    if questions and not answered(questions, params):
        return types.InputRequiredResult.model_validate(ask(questions))
    filled = json.dumps(CATALOG["messages"][params.name])
    for key, value in (params.arguments or {}).items():
        filled = filled.replace(f"{{{key}}}", json.dumps(value)[1:-1])
    return types.GetPromptResult.model_validate({"messages": json.loads(filled)})


async def complete(ctx, params):
    return types.CompleteResult.model_validate({"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": False}})


async def set_level(ctx, params):
    return types.EmptyResult()


class Events(EventStore):
    """Keeps all events, so that a stream that was closed can be resumed."""

    def __init__(self):
        self.events = []

    async def store_event(self, stream_id, message):
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id, send_callback):
        if not last_event_id.isdigit() or not 0 < int(last_event_id) <= len(self.events):
            return None
        stream = self.events[int(last_event_id) - 1][0]
        for number, (owner, message) in enumerate(self.events[int(last_event_id) :], int(last_event_id) + 1):
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Fixture(Server):
    def create_initialization_options(self, *args, **kwargs):
        everything = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(everything)


server = Fixture(
    "ziggurat-fixture-py",
    version="1.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_subscriptions_listen=ListenHandler(bus),
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=set_level,
)


async def serve_stdio():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http():
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app(event_store=Events(), retry_interval=100)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if sys.argv[1] == "http":
    serve_http()
else:
    anyio.run(serve_stdio)
