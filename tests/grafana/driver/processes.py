"""Processes that end with the run, and what they are made of: ziggurat, its upstreams, Prometheus."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
GRAFANA = ROOT / "grafana"


class Broken(Exception):
    """The run cannot go on."""


def ziggurat_bin():
    named = os.environ.get("ZIGGURAT_BIN", str(ROOT / "target/debug/ziggurat"))
    found = shutil.which(named)
    if not found:
        raise Broken(f"there is no {named}: build it, or set ZIGGURAT_BIN")
    return os.path.abspath(found)


def install():
    """Debian's prometheus has promtool, too."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus"], **quiet)


def until(what, condition, seconds=30):
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise Broken(f"never happened: {what}")
        time.sleep(0.1)
    return value


def closed_port():
    """A port at which nobody listens."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """Everything that is started ends with it, last first."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self, name, argv):
        """A process that is ended politely, and killed if that does not help. Its stderr goes to a file."""
        log = self.stack.enter_context(open(self.folder / f"{name}.log", "wb"))
        child = subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.stack.callback(end, child)
        return child

    def ziggurat(self, name, arguments):
        """Starts the binary; gives the process and the addresses that it prints."""
        child = self.start(name, [ziggurat_bin(), *arguments])
        line = child.stdout.readline()
        if not line:
            raise Broken(f"{name} does not start:\n{(self.folder / f'{name}.log').read_text()}")
        return child, json.loads(line)

    def prometheus(self, targets):
        """A Prometheus that scrapes and evaluates every second, with the project's rules, whose `for` is cut short."""
        rules = re.sub(r"(?m)^( +for:) .*$", r"\1 2s", (GRAFANA / "rules.yml").read_text())
        (self.folder / "rules.yml").write_text(rules)
        (self.folder / "prometheus.yml").write_text(
            "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
            "rule_files: [rules.yml]\n"
            f"scrape_configs: [{{ job_name: ziggurat, static_configs: [{{ targets: {json.dumps(targets)} }}] }}]\n"
        )
        address = f"127.0.0.1:{closed_port()}"
        data = self.folder / "data"
        self.start("prometheus", ["prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={data}", f"--web.listen-address={address}"])
        return address


def end(child):
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()
