"""HTTP servers that misbehave in ways in which the demo server does not."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

LEGACY = "2025-11-25"
# More than the buffers between two sockets hold.
BIG = 32 << 20


class Handler(BaseHTTPRequestHandler):
    """By path: `sick` is well when it is probed and fails when it is called, `any` has every tool, `lost` forgets its sessions,
    `slow` takes its time, `big` has a lot to say, `cut` breaks its event stream off and goes on when it is asked to, and everything else is a plain answer."""

    protocol_version = "HTTP/1.1"
    # Head and body in one write.
    wbufsize = 65536

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def result(self, request, result, headers=()):
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        self.answer(200, body, [("Content-Type", "application/json"), *headers])

    def do_GET(self):
        if self.path.endswith("/slow"):
            time.sleep(0.3)
        if self.path.endswith("/cut"):
            return self.events()
        body = b"x" * BIG if self.path.endswith("/big") else b"well"
        self.answer(500 if self.path.endswith("/broken") else 200, body)

    def events(self):
        """Two events; the connection breaks between them."""
        resumed = self.headers.get("Last-Event-ID") == "1"
        event = b"data: 2\n\n" if resumed else b"id: 1\ndata: 1\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event) + (b"0\r\n\r\n" if resumed else b""))
        self.close_connection = not resumed

    def do_DELETE(self):
        self.answer(200)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/sick"):
            return self.answer(503)
        request = json.loads(body)
        if "id" not in request:
            return self.answer(202)
        if request["method"] == "initialize":
            return self.result(request, {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "any", "version": "0"}}, [("Mcp-Session-Id", "one")])
        if self.path.startswith("/lost") and request["params"].get("name") == "lose":
            return self.answer(404)
        self.result(request, {"content": []})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that goes away is part of the load."""


def start(stage):
    """Starts the server; gives its URL."""
    server = Server(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    stage.stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"
