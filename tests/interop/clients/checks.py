"""What the items of the Python client say it with."""

import time

import anyio


class Failed(Exception):
    pass


def check(truth, message):
    if not truth:
        raise Failed(message)


async def until(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := await condition():
            return value
        await anyio.sleep(0.02)
    raise Failed(f"waited in vain for {what}")


def text_of(result):
    check(not result.is_error, f"the tool failed: {result.content}")
    return "\n".join(part.text for part in result.content)
