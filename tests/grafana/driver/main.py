"""The dashboard, the rules and the pages against what they are made for: a ziggurat under mixed load with faults, scraped by a real
Prometheus. Every query must return a series, the alerts for these faults must fire and the others must not, every metric, label and
alert that a page or a panel names must exist, and every metric must be in the reference.

    ZIGGURAT_BIN=target/debug/ziggurat tests/grafana/run

It takes about a minute, needs Python 3.11, and installs Debian's prometheus package where it is missing."""

import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pages
import servers
from config import config
from load import Load
from processes import GRAFANA, Broken, Stage, closed_port, install, until, ziggurat_bin
from prometheus import Prometheus, names, scraped

# How long it may take on a busy machine until everything has been seen; usually it is a quarter of a minute.
PATIENCE = 150
# What nothing in this load may set off. Every other alert must fire.
SILENT = {"ZigguratChildLeak", "ZigguratSlowLeak", "ZigguratFewFileDescriptors", "ZigguratLogLinesLost", "ZigguratBug"}


# What the load must move: a panel that shows 0 shows nothing.
MOVED = {
    "ziggurat_admin_refused_total",
    "ziggurat_intercept_hits_total",
    "ziggurat_intercept_paused",
    "ziggurat_rate_limit_crowded_total",
    "ziggurat_rate_limit_keys",
    "ziggurat_rate_limited_total",
    "ziggurat_replay_buffer_bytes",
    "ziggurat_replay_detached_streams",
    "ziggurat_replays_total",
    "ziggurat_resumes_total",
    "ziggurat_sse_write_stalls_total",
    "ziggurat_stdio_snapshots_total",
}


class Report:
    """Counts what was checked, and prints what failed."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def __call__(self, good, what, why=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {what}" + (f": {why}" if why else ""), flush=True)
        return bool(good)


def promtool(report, *arguments):
    done = subprocess.run(["promtool", *arguments], cwd=GRAFANA, capture_output=True, text=True, check=False)
    report(done.returncode == 0, f"promtool {' '.join(arguments)}", done.stdout + done.stderr)


def reload(child, file, text, admin, result):
    """Has ziggurat read its config again, and waits until it has."""
    counter = f'ziggurat_config_reloads_total{{result="{result}"}} 1'
    file.write_text(text)
    child.send_signal(signal.SIGHUP)
    until(f"the config is read again: {result}", lambda: counter in scrape(admin))


def scrape(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as response:
        return response.read().decode()


def missing(prometheus, queries):
    """The queries that return no number, or that Prometheus refuses."""
    without = {}
    for where, expression in queries.items():
        try:
            if not prometheus.series(expression):
                without[where] = expression
        except ValueError as error:
            without[where] = f"{expression}: {error}"
    return without


def watch(report, prometheus, queries, alerts):
    """Looks until every query has returned a number and every alert that should fire has fired."""
    wanted, give_up = alerts - SILENT, time.monotonic() + PATIENCE
    fired = set()
    while time.monotonic() < give_up:
        queries = missing(prometheus, queries)
        fired |= prometheus.firing()
        if not queries and wanted <= fired:
            break
        time.sleep(1)
    for where, expression in queries.items():
        report(False, f"{where} returns no number", expression)
    for alert in sorted(wanted - fired):
        report(False, f"{alert} should have fired")
    for alert in sorted(fired & SILENT):
        report(False, f"{alert} should not have fired")


def run(report, stage):
    board = pages.dashboard()
    pages.check_form(report, board)
    for arguments in (("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"), ("check", "config", "prometheus.yml")):
        promtool(report, *arguments)

    closed = closed_port()
    demos = [stage.ziggurat(f"demo{number}", ["demo", "--http", "127.0.0.1:0"])[1]["listen"] for number in range(2)]
    parts = (ziggurat_bin(), demos, servers.start(stage), closed)
    file = stage.folder / "ziggurat.yaml"
    file.write_text(config(*parts))
    child, addresses = stage.ziggurat("ziggurat", ["run", "-c", str(file)])
    # The second target is one that is down.
    prometheus = Prometheus(stage.prometheus([addresses["admin"], f"127.0.0.1:{closed}"]))
    until("Prometheus is up", prometheus.is_up)
    with Load(addresses["listen"], addresses["admin"]):
        until("the first scrape", lambda: prometheus.series("ziggurat_build_info"))
        reload(child, file, config(*parts), addresses["admin"], "ok")
        reload(child, file, config(*parts, flaw="nonsense: true"), addresses["admin"], "refused")
        until("the rules are known", prometheus.rules)
        rules = prometheus.rules()
        alerts = {rule["name"]: rule for rule in rules if rule["type"] == "alerting"}
        report(SILENT <= set(alerts), "the alerts that are to be silent exist", SILENT - set(alerts))
        queries = pages.queries(board)
        queries |= {f"record {rule['name']}": rule["name"] for rule in rules if rule["type"] == "recording"}
        queries |= {f"{name} looks at {metric}": metric for name, rule in alerts.items() for metric in names(rule["query"])}
        queries |= {f"{metric}, once above 0,": f"max_over_time({metric}[5m]) > 0" for metric in MOVED}
        watch(report, prometheus, queries, set(alerts))
        metrics = scraped(scrape(addresses["admin"]))
    known = metrics | {rule["name"]: labels(prometheus, rule["name"]) for rule in rules if rule["type"] == "recording"}
    for where, expression in pages.queries(board).items():
        pages.check_names(report, where, expression, known)
    for rule in rules:
        pages.check_names(report, rule["name"], rule["query"], known)
    pages.check_pages(report, metrics, rules)
    pages.check_shown(report, metrics, [*pages.queries(board).values(), *(rule["query"] for rule in rules)])
    print(f"{len(pages.queries(board))} queries, {len(rules)} rules and {len(metrics)} metrics were looked at", flush=True)


def labels(prometheus, name):
    return {label for metric, _ in prometheus.series(name) for label in metric}


def main():
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        try:
            install()
            with Stage(folder) as stage:
                run(report, stage)
        except Broken as broken:
            report(False, "the run", str(broken))
        if report.failed:
            log = Path(folder) / "ziggurat.log"
            print("\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else "", flush=True)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
