"""`run [sdk] [conformance] [--direct] [--record]`; see README.md."""

import argparse
import asyncio
import os
import signal
import sys
import time

import conformance
import install
import processes
import sdk


class Report:
    def __init__(self):
        self.passed, self.failures = 0, []

    def __call__(self, ok, name, why=""):
        if ok:
            self.passed += 1
        else:
            self.failures.append(name)
            print(f"FAILED {name}: {why}", flush=True)


async def work(args, report):
    started = time.monotonic()

    def done(what):
        print(f"[{time.monotonic() - started:5.0f} s] {what}: {report.passed} passed, {len(report.failures)} failed so far", flush=True)

    if not args.direct:
        processes.ziggurat_bin()
    await install.install()
    done("installed")
    if "sdk" in args.parts:
        await sdk.run(not args.direct, report)
        done("sdk")
    if "conformance" in args.parts:
        await conformance.run(not args.direct, args.record, report)
        done("conformance")


async def main():
    parser = argparse.ArgumentParser(prog="run", description="MCP interop: official SDKs and the official conformance suite, directly and through ziggurat.")
    parser.add_argument("parts", nargs="*", metavar="part", help="sdk, conformance; both when none is named")
    parser.add_argument("--direct", action="store_true", help="leave ziggurat out: check the servers, the clients and the baselines alone")
    parser.add_argument("--record", action="store_true", help="write the conformance baselines anew from the direct run; a baseline never shrinks")
    args = parser.parse_args()
    if unknown := set(args.parts) - {"sdk", "conformance"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    args.parts = args.parts or ["sdk", "conformance"]
    report = Report()
    task = asyncio.ensure_future(work(args, report))
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(sign, task.cancel)
    try:
        await asyncio.wait_for(task, float(os.environ.get("INTEROP_LIMIT", 1500)))
    except processes.Broken as broken:
        report(False, "set-up", broken)
    except (asyncio.CancelledError, asyncio.TimeoutError):
        report(False, "the run", "it was stopped before its end")
    finally:
        left = processes.tagged()
        processes.kill_tagged()
    if left:
        report(False, "the end", f"{len(left)} processes were left over")
    if report.passed == 0:
        report(False, "the run", "nothing ran")
    print(f"{report.passed} passed, {len(report.failures)} failed")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
