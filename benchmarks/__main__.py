"""`python -m benchmarks [NAME ...] [options]`: run benchmarks by name, all of them without a name.

With one name, options go to that benchmark; without, every benchmark runs with its quick defaults.
"""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "kernels",
    "datatrove_blocks",
    "classifiers",
    "tokens",
    "documents",
    "dedup",
    "charsets",
    "large_inputs",
    "extraction",
    "main_text",
    "fineweb",
    "datatrove_words",
    "languages",
    "decontamination",
    "pii",
    "memory",
    "ledger",
    "engine",
    "trainer",
    "gpu",
)
LONG = ("imitation", "peers", "preferences")  # run only when they are named


def main() -> None:
    """Run the benchmarks that are named."""
    arguments = sys.argv[1:]
    chosen: list[str] = []
    while arguments and arguments[0] in NAMES + LONG:
        chosen.append(arguments.pop(0))
    if arguments and len(chosen) != 1:
        asks_help = arguments[0] in ("-h", "--help")
        print(
            f"{__doc__}\nbenchmarks: {', '.join(NAMES + LONG)} (each has --help)", file=sys.stdout if asks_help else sys.stderr
        )
        raise SystemExit(0 if asks_help else 2)
    for name in chosen or NAMES:
        print(f"== {name}", flush=True)
        import_module(f"benchmarks.{name}").main(arguments)
        print(flush=True)


if __name__ == "__main__":
    main()
