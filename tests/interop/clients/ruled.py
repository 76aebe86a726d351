"""Through a ziggurat with the rules of `rules.yaml`: what the SDK makes of each thing that a rule can do. The same items as `ruled.mjs`."""

import json
import sys
import urllib.error
import urllib.request

import anyio
from mcp.shared.exceptions import MCPError

from checks import Failed, check, text_of, until

TASK = json.loads(sys.argv[1])


class Call:
    """A call that ends as it likes: with a result, or with the SDK's error."""

    def __init__(self, call, *args, **more):
        self.call, self.result, self.error = call(*args, **more), None, None

    async def run(self):
        try:
            self.result = await self.call
        except MCPError as error:
            self.error = error.error
        return self

    def answer(self):
        check(self.result, f"the call failed: {self.error}")
        return text_of(self.result)

    def refused(self, words, done="rejected"):
        """The SDK's error of a call that a rule or an operator refused; `done` says whether the server had been asked."""
        check(self.error, f"the call was answered: {self.result}")
        check(self.error.code == 403 and words in self.error.message, f"not the refusal: {self.error}")
        data = self.error.data or {}
        fits = data.get("source") == "proxy" and data.get("kind") == "blocked" and data.get("outcome") == done
        check(fits, f"not a refusal of the proxy: {self.error}")


def ask(name, order):
    admin = TASK["admin"]
    headers = {"authorization": f"Bearer {admin['token']}", "content-type": "application/json"}
    body = None if order is None else json.dumps(order).encode()
    try:
        request = urllib.request.Request(f"{admin['url']}/admin/v1/{name}", body, headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Failed(f"{name}: {error.code} {error.read().decode()}") from None


async def api(name, order=None):
    return await anyio.to_thread.run_sync(ask, name, order)


async def held(rule):
    """What waits because of this rule, as soon as it does."""

    async def waits():
        return next((waiting for waiting in await api("paused") if waiting["rule"] == rule), None)

    return await until(f"a call that waits for {rule}", waits)


def goes_on(item):
    """The item, and then the session goes on."""

    async def and_then(self):
        session = self.session
        await item(self)
        await self.echo()
        check(self.session == session, "the session changed")
        return "goes on"

    return and_then


class Ruled:
    """The items."""

    async def ended(self, name, arguments, meanwhile=None, **more):
        """How this call ended; `meanwhile` runs beside it."""
        call = Call(self.client.call_tool, name, arguments, **more)
        async with anyio.create_task_group() as group:
            group.start_soon(call.run)
            if meanwhile:
                await meanwhile()
        return call

    async def counted(self, steps, meanwhile=None):
        """Counts with progress; `meanwhile` runs when all but the answer is there, or soon will be."""
        seen = []

        async def on_progress(progress, total, message):
            seen.append((progress, message))

        async def all_seen():
            return len(seen) == steps

        beside = (lambda: meanwhile(all_seen)) if meanwhile else None
        call = await self.ended("count", {"steps": steps}, beside, progress_callback=on_progress)
        check(seen == [(step, "counting") for step in range(1, steps + 1)], f"{steps} steps, seen {seen}")
        check("counted to" not in str(call.result), f"the server's words got through: {call.result}")
        return call

    @goes_on
    async def item_blocked(self):
        (await self.ended("crash", {})).refused("nothing crashes here")

    @goes_on
    async def item_mocked(self):
        await self.client.list_tools()  # so that the SDK knows what each answer should look like
        text = await self.tool("weather", {"city": "Zürich"})
        check(text == "weather: always sunny in Zürich", f"answered {text}")
        stats = (await self.ended("stats", {"key": "mock"})).result
        check(text_of(stats) == "no numbers" and stats.structured_content == {"result": "no numbers"}, f"answered {stats}")
        error = (await self.ended("slow", {"ms": 30_000, "key": "mock"})).error
        check(error and (error.code, error.message, error.data) == (-32050, "slow is too slow", {"ms": 30_000}), f"not the error of the rule: {error}")

    @goes_on
    async def item_modified(self):
        text = await self.tool("echo", {"message": "modify"})
        check(text == "modified: grüße 🎉", f"echoed {text}")
        renamed = await self.tool("large", {"bytes": 7})
        check(renamed == "renamed", f"the other tool answered {renamed}")
        if TASK["era"] == "modern":
            seen = json.loads(await self.tool("test_custom_headers", {"region": "zürich ", "shard": 42, "note": "modify"}))
            check(seen == {"region": " genève", "shard": 43, "note": "modify"}, f"arrived {seen}")

    @goes_on
    async def item_streamed(self):
        masked = (await self.counted(20)).answer()
        check(masked == "counted", f"answered {masked}")
        (await self.counted(21)).refused("not for you", "unknown")
        mocked = (await self.counted(22)).answer()
        check(mocked == "uncounted", f"answered {mocked}")

        async def decide(all_seen):
            waiting = await held("held-answer")
            check(waiting["direction"] == "response", f"a {waiting['direction']} waits")
            await until("all progress, while the answer waits", all_seen)
            await api("decide", {"id": waiting["id"], "decision": "resume"})

        waited = (await self.counted(23, decide)).answer()
        check(waited == "decided", f"answered {waited}")

    @goes_on
    async def item_paused(self):
        async def resume():
            await api("decide", {"id": (await held("held"))["id"], "decision": "resume"})

        async def resume_changed():
            waiting = await held("held")
            waiting["message"]["params"]["arguments"]["message"] = "let go"
            await api("decide", {"id": waiting["id"], "decision": "resume", "message": json.dumps(waiting["message"])})

        for decide, text in ((resume, "hold"), (resume_changed, "let go")):
            answer = (await self.ended("echo", {"message": "hold"}, decide)).answer()
            check(answer == text, f"it went on as {answer}")

    @goes_on
    async def item_withdrawn(self):
        async with anyio.create_task_group() as group:
            group.start_soon(self.client.call_tool, "echo", {"message": "hold"})
            number = (await held("held"))["id"]
            group.cancel_scope.cancel()

        async def gone():
            return all(waiting["id"] != number for waiting in await api("paused"))

        await until("nothing waits any more", gone)

    @goes_on
    async def item_refused(self):
        async def block():
            await api("decide", {"id": (await held("held"))["id"], "decision": "block", "reason": "not today"})

        (await self.ended("echo", {"message": "hold"}, block)).refused("not today")
