"""Brings the pinned clients, servers and the suite into .work, once for each state of the lock files."""

import asyncio
import hashlib
import shutil
import subprocess
import sys

from processes import MODULES, NODE, ROOT, WORK, Broken

NPM = ["package.json", "package-lock.json", ".npmrc"]
VENVS = {"py": "requirements.txt", "py1": "requirements-v1.txt"}


async def call(what, *argv):
    process = await asyncio.create_subprocess_exec(
        *map(str, argv), cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 600)
    except asyncio.TimeoutError:
        process.kill()
        raise Broken(f"{what} took longer than ten minutes") from None
    if process.returncode:
        raise Broken(f"{what} failed:\n{out.decode()[-2000:]}")
    return out.decode()


def fresh(stamp, files):
    """Whether these files are what was installed; else the stamp's new content."""
    state = hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files) + sys.version.encode()).hexdigest()
    path = WORK / f"{stamp}.stamp"
    return path, state, path.exists() and path.read_text() == state


async def npm():
    path, state, done = fresh("npm", NPM)
    if done and NODE.exists():
        return
    path.unlink(missing_ok=True)
    for file in NPM:
        shutil.copy(ROOT / file, WORK / file)
    await call("npm ci", "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    path.write_text(state)


async def venv(name, requirements):
    path, state, done = fresh(name, [requirements])
    if done:
        return
    path.unlink(missing_ok=True)
    shutil.rmtree(WORK / name, ignore_errors=True)
    await call(f"the virtual environment {name}", sys.executable, "-m", "venv", WORK / name)
    await call(
        f"pip for {name}", WORK / name / "bin/pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", ROOT / requirements
    )
    path.write_text(state)


async def install():
    if "\"resolved\"" in (ROOT / "package-lock.json").read_text():
        raise Broken("package-lock.json names registry hosts; write it with omit-lockfile-registry-resolved=true")
    WORK.mkdir(exist_ok=True)
    await asyncio.gather(npm(), *(venv(*pair) for pair in VENVS.items()))
    # Node finds packages beside the file that imports them, so the sources go where the packages are.
    for folder in ("servers", "clients"):
        shutil.rmtree(WORK / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, WORK / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(WORK / "logs", ignore_errors=True)
    version = await call("node --version", NODE, "--version")
    if int(version.lstrip("v").split(".")[0]) < 22:
        raise Broken(f"the conformance suite needs Node 22 or newer, not {version.strip()}")
    if not (MODULES / "@modelcontextprotocol/conformance/dist/index.js").exists():
        raise Broken("the conformance suite is not installed")
