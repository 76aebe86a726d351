"""The load: small stories, told again and again by threads until the run has seen enough. What a story gets is not looked at."""

import http.client
import json
import socket
import threading
import time
from itertools import count

LEGACY, MODERN = "2025-11-25", "2026-07-28"
IDS = count(1)
PAUSE = 0.05


class Client:
    """One connection to ziggurat."""

    def __init__(self, address, admin=None):
        self.address = address
        self.admin = admin
        self.http = http.client.HTTPConnection(address, timeout=10)

    def ask(self, method, path, headers=(), body=None):
        self.http.request(method, path, body, dict(headers))
        response = self.http.getresponse()
        return response, response.read()

    def post(self, path, message, headers=()):
        kinds = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        return self.ask("POST", path, {**kinds, **dict(headers)}, json.dumps(message))

    def modern(self, path, method, params, headers=()):
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "0"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        names = {"Mcp-Name": params["name"]} if "name" in params else {}
        params = {**params, "_meta": {**meta, **params.get("_meta", {})}}
        return self.post(path, rpc(method, params), {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method, **names, **dict(headers)})

    def tool(self, path, name, arguments=None):
        return self.modern(path, "tools/call", {"name": name, "arguments": arguments or {}})

    def session(self, path):
        """Begins a legacy session; gives the headers of its requests."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "load", "version": "0"}}
        response, _ = self.post(path, rpc("initialize", params))
        headers = {"Mcp-Session-Id": response.getheader("Mcp-Session-Id", "none"), "Mcp-Protocol-Version": LEGACY}
        self.post(path, {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
        return headers

    def legacy_tool(self, path, headers, name, arguments=None):
        return self.post(path, rpc("tools/call", {"name": name, "arguments": arguments or {}}), headers)


def rpc(method, params):
    return {"jsonrpc": "2.0", "id": next(IDS), "method": method, "params": params}


def modern_era(client):
    for path in ("/tools", "/local"):
        client.tool(path, "echo", {"text": "modern"})
        client.tool(path, "fail")
        client.tool(path, "error", {"code": -32050})
        client.modern(path, "tools/list", {})
        client.modern(path, "tools/call", {"name": "progress", "arguments": {"steps": 3, "interval_ms": 10}, "_meta": {"progressToken": 1}})


def legacy_era(client):
    for path in ("/tools", "/local"):
        headers = client.session(path)
        for _ in range(4):
            client.legacy_tool(path, headers, "echo", {"text": "legacy"})
        client.legacy_tool(path, headers, "sleep", {"ms": 150})
        client.post(path, rpc("ping", {}), headers)
        client.ask("DELETE", path, headers)


def kept_sessions(client):
    """Sessions with a stream each, left to expire."""
    headers = client.session("/local")
    client.legacy_tool("/local", headers, "garbage")
    client.http.request("GET", "/local", headers={"Accept": "text/event-stream", **headers})
    client.http.getresponse()
    time.sleep(2)


def clocks(client):
    """A clock that runs out, and a client that does not wait."""
    client.tool("/hasty", "sleep", {"ms": 60_000})
    client.http.timeout = 0.2
    client.tool("/local", "sleep", {"ms": 5_000})


def crashes(client):
    client.legacy_tool("/crashy", client.session("/crashy"), "crash")


def dead_and_sick(client):
    for _ in range(5):
        client.modern("/dead", "tools/list", {})
        client.post("/sick", rpc("tools/list", {}))
        client.post("/sick", rpc("tools/call", {"name": "get", "arguments": {}}))


def no_room(client):
    client.ask("GET", "/narrow/slow")
    client.ask("GET", "/full/slow")


def plain(client):
    client.ask("GET", "/api/well")
    client.ask("GET", "/api/broken")


def many_tools(client):
    for number in range(300):
        client.post("/any", rpc("tools/call", {"name": f"tool_{number}", "arguments": {}}))


def lost_sessions(client):
    headers = client.session("/lost")
    client.legacy_tool("/lost", headers, "keep")
    client.legacy_tool("/lost", headers, "lose")


def strangers(client):
    for _ in range(10):
        client.post("/local", rpc("ping", {}), {"Origin": "http://elsewhere.example"})
    client.ask("GET", "/nowhere")
    client.post("/tools", rpc("ping", {}), {"Mcp-Session-Id": "made-up"})
    client.post("/local", rpc("tools/call", {"name": "echo"}), {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "tools/list"})


def comes_back(client):
    """A client whose connection breaks in the middle of a call, and who asks for the rest of it later."""
    headers = client.session("/local")
    call = rpc("tools/call", {"name": "progress", "arguments": {"steps": 20, "interval_ms": 100}, "_meta": {"progressToken": 1}})
    kinds = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    client.http.request("POST", "/local", json.dumps(call), {**kinds, **headers})
    stream = client.http.getresponse()
    newest = next((line[3:].strip().decode() for line in stream if line.startswith(b"id:")), "")
    client.http.close()
    time.sleep(1.5)
    client.ask("GET", "/local", {"Accept": "text/event-stream", "Last-Event-ID": newest, **headers})


def broken_streams(client):
    client.ask("GET", "/api/cut", {"Accept": "text/event-stream"})


def reads_nothing(client):
    host, port = client.address.rsplit(":", 1)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((host, int(port)))
        lazy.sendall(b"GET /api/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(3)


def too_many(client):
    for method in ("GET", "PUT", "DELETE", "GET"):
        client.ask(method, "/limited/well")


def guesses(client):
    for _ in range(5):
        Client(client.admin).ask("GET", "/admin/v1/build", {"Authorization": "Bearer made-up"})


# Who tells a story, and how many tell it at once.
STORIES = {modern_era: 2, legacy_era: 2, kept_sessions: 2, clocks: 1, crashes: 1, dead_and_sick: 2, no_room: 4, plain: 1, many_tools: 1, lost_sessions: 1, strangers: 1}
STORIES |= {comes_back: 1, broken_streams: 1, reads_nothing: 1, too_many: 1, guesses: 1}


class Load:
    """Runs from the beginning to the end of a `with`."""

    def __init__(self, address, admin):
        self.address, self.admin = address, admin
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.tell, args=(story,), daemon=True) for story, tellers in STORIES.items() for _ in range(tellers)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=15)

    def tell(self, story):
        while not self.over.wait(PAUSE):
            client = Client(self.address, self.admin)
            try:
                story(client)
            except (OSError, http.client.HTTPException):
                pass
            finally:
                client.http.close()
