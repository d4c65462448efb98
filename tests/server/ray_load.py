"""Two replicas behind Ray Serve: callers above the limit wait, a rolling restart cuts nobody.

    pip install "ray[serve]==2.60.*"        # a minute; not part of the tests for its size
    python -m tests.server.ray_load BUNDLE

20 callers hold two spoken turns each, of which ten find a place at a time. Then the replicas are
replaced while one caller is in the middle of a conversation, and others come.
"""

import argparse
import asyncio
import os
import random
import sys
import threading
from collections import Counter

import ray
from ray import serve
from tests.server.load import STUCK, Load
from websockets.asyncio.client import connect

from omni_runtime.server.replicas import build

PORT = 8300
SESSIONS = 5
"""Of each replica."""


def deploy(bundle: str) -> None:
    """Start the replicas, or replace them; returns when the new ones serve."""
    serve.run(
        build({"bundle": bundle, "replicas": "2", "sessions": str(SESSIONS)}), route_prefix="/"
    )


def replicas() -> Counter[str]:
    """Count replicas by their state."""
    (application,) = serve.status().applications.values()
    (deployment,) = application.deployments.values()
    return Counter({str(state): count for state, count in deployment.replica_states.items()})


async def call(load: "RayLoad", number: int, turns: int) -> None:
    """Hold a conversation of some turns."""
    r = random.Random(number)
    async with connect(load.address, max_size=None, open_timeout=5 * STUCK) as socket:
        load.talking += 1
        load.most = max(load.most, load.talking)
        try:
            for _ in range(turns):
                await load.turn(socket, r)
        finally:
            load.talking -= 1
    load.counts["conversations"] += 1


async def restart(load: "RayLoad", bundle: str) -> None:
    """Replace the replicas while a caller talks; others find the new ones."""
    talking = asyncio.create_task(call(load, 100, 8))
    await asyncio.sleep(5)
    replacing = threading.Thread(target=deploy, args=(bundle,))
    replacing.start()
    others = asyncio.gather(*(call(load, 200 + n, 1) for n in range(4)))
    while replacing.is_alive():
        stopping = replicas()["STOPPING"]
        load.counts["looks at a replica that stops, while it talks"] += (
            stopping > 0 and not talking.done()
        )
        await asyncio.sleep(0.2)
    await asyncio.gather(others, talking)


class RayLoad(Load):
    """Also counts who is connected at the moment, and the most at once."""

    talking = most = 0


async def run(bundle: str, callers: int) -> int:
    """Return the exit code."""
    load = RayLoad(PORT, os.getpid())
    results = await asyncio.gather(
        *(call(load, number, 2) for number in range(callers)), return_exceptions=True
    )
    load.report()
    await restart(load, bundle)
    load.report()
    problems = [repr(one) for one in results if isinstance(one, BaseException)]
    problems += [name for name in load.counts if name.startswith("error")]
    if load.counts["conversations"] != callers + 5:
        problems.append("a conversation did not end")
    if not load.counts["looks at a replica that stops, while it talks"]:
        problems.append("the replicas were replaced too late to show anything")
    if load.most != 2 * SESSIONS:
        problems.append("the limit of the replicas does not hold")
    print(f"{load.most} at once, {dict(replicas())}, problems: {problems}")  # noqa: T201
    return int(bool(problems))


def main() -> int:
    """Start Ray on this machine, run, and stop it."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.ray_load", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--callers", type=int, default=20)
    options = parser.parse_args()
    ray.init(num_cpus=8, include_dashboard=False)
    try:
        serve.start(http_options={"port": PORT})
        deploy(options.bundle)
        return asyncio.run(run(options.bundle, options.callers))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
