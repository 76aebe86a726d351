"""The official conformance suite's server scenarios: directly against the fixture servers, and through ziggurat.

baselines/SERVER.json has the status of each check of each scenario of each revision, as recorded directly over HTTP.
A direct run must give exactly that; through ziggurat each check must have the same status.
"""

import asyncio
import json
import shutil
from contextlib import AsyncExitStack

from processes import LOGS, MODULES, NODE, ROOT, Broken, spawned, ziggurat
from servers import FIXTURE_PY, FIXTURE_TS

SUITE = MODULES / "@modelcontextprotocol/conformance"
SERVERS = (FIXTURE_TS, FIXTURE_PY)
# Scenarios and checks that a baseline has at least: what passed when this was written. It may grow.
FLOOR = {"2025-06-18": (27, 56), "2025-11-25": (33, 83), "2026-07-28": (40, 151)}
# Checks that only tell what was sent and received; how often depends on how bytes were cut into events.
NARRATION = {"outgoing-request", "incoming-response", "incoming-sse-event", "stream-closed"}
REBINDING, POLLING = "dns-rebinding-protection", "server-sse-polling"
# A server is free to answer with JSON or with events, and the suite notes which; behind stdio it is the proxy that chooses.
FREE_OVER_STDIO = {("server-sse-multiple-streams", "server-sse-streams-functional"): {"INFO", "SUCCESS"}}


def version():
    return json.loads((SUITE / "package.json").read_text())["version"]


def read(folder):
    """{scenario: {check: its statuses}}, whatever the order in which the checks ran."""
    scenarios = {}
    for file in sorted(folder.glob("server-*/checks.json")):
        scenario = file.parent.name.removeprefix("server-").rsplit("-", 6)[0]
        checks = scenarios.setdefault(scenario, {})
        for check in json.loads(file.read_text()):
            if check["id"] not in NARRATION:
                checks.setdefault(check["id"], []).append((check["status"], check.get("errorMessage") or ""))
    return {s: {c: sorted(found) for c, found in sorted(checks.items())} for s, checks in sorted(scenarios.items())}


def statuses(checks):
    """Without the reasons, and a single status as a word: the form of the baseline."""
    return {check: found[0][0] if len(found) == 1 else [status for status, _ in found] for check, found in checks.items()}


async def suite(name, url, revision, scenario=None):
    folder = LOGS / f"conformance-{name}-{revision}" / (scenario or "all")
    shutil.rmtree(folder, ignore_errors=True)
    argv = [NODE, SUITE / "dist/index.js", "server", "--url", url, "--spec-version", revision, "--output-dir", folder]
    argv += ["--scenario", scenario] if scenario else ["--suite", "all"]
    async with spawned(f"conformance-{name}-{revision}", argv) as process:
        try:
            await asyncio.wait_for(process.communicate(), 60 if scenario else 240)
        except asyncio.TimeoutError:
            pass  # what did not run is missing from the results
    return read(folder)


def compare(expected, found):
    """The checks of one scenario that are not as they should be, each with what is wrong."""
    wrong = {}
    for scenario_check in sorted(set(expected) | set(found)):
        want, got = expected.get(scenario_check), found.get(scenario_check)
        if got is None:
            wrong[scenario_check] = "did not run"
        elif want is None:
            wrong[scenario_check] = f"is not in the baseline: {got}"
        else:
            have = [status for status, _ in got]
            if have != ([want] if isinstance(want, str) else want):
                reason = "; ".join(message for status, message in got if message)
                wrong[scenario_check] = f"should be {want}, is {have[0] if len(have) == 1 else have} ({reason[:300]})"
    return wrong


def judge(scenario, expected, found, variant):
    if variant == "direct":
        return compare(expected, found)
    if scenario == REBINDING:  # the proxy is the exposed listener: it protects servers that do not
        expected = {check: "SUCCESS" for check in expected}
    if variant == "stdio":
        if scenario == POLLING:  # there is no connection to the child that could be closed and polled
            return {} if found else {"any check": "did not run"}
        for (where, check), free in FREE_OVER_STDIO.items():
            if scenario == where and check in found and {status for status, _ in found[check]} <= free:
                expected = {**expected, check: statuses(found)[check]}
    return compare(expected, found)


async def run_revision(name, url, revision, baseline, variant, report):
    results = await suite(name, url, revision)
    for scenario in sorted(set(baseline) | set(results)):
        expected, found = baseline.get(scenario, {}), results.get(scenario, {})
        wrong = judge(scenario, expected, found, variant)
        if wrong:  # once more, alone: on a busy machine a scenario may look away too early
            print(f"again: {name} {revision} {scenario}: {'; '.join(f'{c} {w}' for c, w in wrong.items())[:300]}", flush=True)
            found = (await suite(name, url, revision, scenario)).get(scenario, {})
            wrong = judge(scenario, expected, found, variant)
        for check in sorted(set(expected) | set(found) | set(wrong)):
            report(check not in wrong, f"{name} {revision} {scenario} {check}", wrong.get(check, ""))


def load(server):
    path = ROOT / f"baselines/{server.name}.json"
    return json.loads(path.read_text()) if path.exists() else {"revisions": {}}


def check_floor(server, baseline, report):
    """A baseline that shrank is a failure, whatever runs."""
    if baseline.get("suite") != version():
        report(False, f"{server.name} baseline", f"recorded with suite {baseline.get('suite')}, installed is {version()}")
    for revision, (scenarios, checks) in FLOOR.items():
        have = baseline["revisions"].get(revision, {})
        passed = sum(status == "SUCCESS" for found in have.values() for status in all_statuses(found))
        report(
            len(have) >= scenarios and passed >= checks and all(have.values()),
            f"{server.name} {revision} baseline",
            f"{len(have)} of at least {scenarios} scenarios, {passed} of at least {checks} passed checks",
        )


def all_statuses(checks):
    return [status for found in checks.values() for status in ([found] if isinstance(found, str) else found)]


async def record(server, report):
    old = load(server)["revisions"]
    new = {}
    async with server.http(f"record-{server.name}") as url:
        for revision in FLOOR:
            first, second = [await suite(f"record-{server.name}", url, revision) for _ in range(2)]
            new[revision] = {scenario: statuses(checks) for scenario, checks in first.items()}
            report(new[revision] == {s: statuses(c) for s, c in second.items()}, f"{server.name} {revision}: two recordings agree", "they differ")
    for revision, scenarios in old.items():
        for scenario, checks in scenarios.items():
            lost = set(checks) - set(new.get(revision, {}).get(scenario, {}))
            if lost:
                raise Broken(f"the new baseline of {server.name} lacks {revision} {scenario}: {', '.join(sorted(lost))}")
    path = ROOT / f"baselines/{server.name}.json"
    path.write_text(json.dumps({"suite": version(), "revisions": new}, indent=1) + "\n")
    print(f"recorded {path.name}")


async def drive(server, variant, report, gate):
    name = f"{server.name}-{variant}"
    baseline = load(server)["revisions"]
    async with gate, AsyncExitStack() as stack:
        if variant == "stdio":
            # The suite opens a session for each scenario and never ends it: let the children of idle ones go early.
            endpoint = {"idle": "20s", "max": 256}
            url = (await stack.enter_async_context(ziggurat(f"suite-{name}", server.stdio(), report, endpoint=endpoint))).url
        else:
            url = await stack.enter_async_context(server.http(f"suite-{name}"))
            if variant == "http":
                url = (await stack.enter_async_context(ziggurat(f"suite-{name}", url, report))).url
        for revision in FLOOR:
            await run_revision(name, url, revision, baseline.get(revision, {}), variant, report)


async def run(through, recording, report):
    if recording:
        for server in SERVERS:
            await record(server, report)
    for server in SERVERS:
        check_floor(server, load(server), report)
    gate = asyncio.Semaphore(2)
    jobs = [(server, variant) for server in SERVERS for variant in (("direct", "http", "stdio") if through else ("direct",))]
    results = await asyncio.gather(*(drive(*job, report, gate) for job in jobs), return_exceptions=True)
    for (server, variant), result in zip(jobs, results):
        if isinstance(result, BaseException):
            report(False, f"{server.name} {variant}", f"{type(result).__name__}: {result}")
