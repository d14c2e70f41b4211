#!/usr/bin/env python3
"""Bytes of a classification record on the wire, and what quantization costs, by the commands a user types.

    benchmarks/bench_classification_bytes.py [--images ../shared/data/blood-cells/tecom] [--size 128]

A founding package is trained on four fifths of the images; a device recognizes
the other fifth and provides every result to a learner over HTTP. The bytes are
those of the request bodies, all included; beside them those of the image files that the records are of.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from featureloop.cli.processes import children
from featureloop.images.labelled import open_labelled, split
from featureloop.sharing.policy import NO_REPORT

SHARE_ALL = NO_REPORT + '\n[share]\nprovide = "all"\nbelow_threshold = "provide"\nnear_duplicates = 0\n'
HOLD_OUT = 0.2
"""The commands' own, with the seed 1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--images", type=Path, default=root.parent / "shared" / "data" / "blood-cells" / "tecom")
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, children() as group:
        work = Path(name)
        package, state, data = (str(work / n) for n in ("P0", "device", "learner"))
        policy = work / "policy.toml"
        policy.write_text(SHARE_ALL)
        trained = group.run("model", "train", "--images", str(args.images), "--out", package, "--size", str(args.size))
        figures = group.run("model", "evaluate", package, "--images", str(args.images), "--part", "held-out")["figures"]
        url = group.serve("learner", "serve", "--data", data, "--package", package, "--port", "0", timeout_s=120)
        code = group.run("learner", "invite", "--site", "site", "--data", data)["code"]
        group.run("device", "enroll", "--learner", url, "--code", code, "--state", state)
        done = group.run(
            "device", "process", str(args.images), "--package", package, "--learner", url, "--part", "held-out",
            "--policy", str(policy), "--state", state,
        )  # fmt: skip
    _, held_out = split(open_labelled(args.images).items, hold_out=HOLD_OUT, seed=1)
    source = sum(item.image.stat().st_size for item in held_out)
    records = done["outbox"]["delivered"]
    result = {
        "records": records,
        "bytes": done["sent_bytes"],
        "bytes_each": round(done["sent_bytes"] / records, 1),
        "source_bytes": source,
        "source_over_sent": round(source / done["sent_bytes"], 1),
        "held_out": {k: round(v["value"], 3) for k, v in figures.items()},
        "founding_seconds": trained["seconds"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
