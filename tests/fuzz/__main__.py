"""Fuzz for as long as you like: python -m tests.fuzz --seconds 3600 [--seed 1]. Prints the seed that broke it."""

import argparse
import time

from tests.brokerproc import running_broker
from tests.fuzz import broker as over_tcp
from tests.fuzz import engine as in_process


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; half of it in process, half over TCP")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="where to start; default: the clock")
    chosen = parser.parse_args()
    deadline = time.monotonic() + chosen.seconds / 2
    seed = chosen.seed
    while time.monotonic() < deadline:
        print(f"\rengine: seed {seed}", end="", flush=True)
        in_process.run(seed)
        seed += 1
    print(f"\rengine: {seed - chosen.seed} runs, seeds {chosen.seed} to {seed - 1}")
    left = chosen.seconds / 2
    while left > 0:
        with running_broker({"systopics.interval_s": 1}) as broker:
            sent = over_tcp.fuzz(broker, seed, min(left, 30.0))
        print(f"broker: seed {seed}, {sent:,} bytes")
        left -= 30.0
        seed += 1


if __name__ == "__main__":
    main()
