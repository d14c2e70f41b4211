#!/usr/bin/env python3
"""All that leaves against the files it came from: videos, DICOM files or folders, by the commands a user types.

    benchmarks/bench_bytes.py --package P [--sources FILE_OR_FOLDER ...] [--shares 0 0.3]
        [--ways "each by itself" "together" "across frames"]

A device processes each source under each share of `near_duplicates` and sends every result to a learner over HTTP
(doubtful ones too: nobody is asked), in each way that the policy's `sending` has: records by themselves, those of a
body coded together, and each set after one like it. Bytes sent are those of the request bodies, all included. Default
sources: the 612-frame clip and the DICOM files of ../shared/data, which are not part of the project.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from featureloop.cli.processes import Children, children
from featureloop.sharing.policy import NO_REPORT

WAYS = {
    "each by itself": "together = false",
    "together": "together = true",
    "across frames": "together = true\nacross_frames = true",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    sources = [data / "video" / "colonoscopy-clinicdb-612frames-25fps.mp4", data / "dicom" / "valid"]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--sources", type=Path, nargs="+", default=sources)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    columns = "| {} | {} | {:g} | {} | {} | {} | {} | {:.2f} | {:.1f} |"
    print("| source | its bytes | near_duplicates | sent | frames | records | bytes sent | of all | source over sent |")
    print(f"|{'---|' * 9}")
    for source in args.sources:
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        whole = 0
        for share, way in product(args.shares, args.ways):
            with tempfile.TemporaryDirectory() as work, children() as group:
                done = sent(group, Path(work), args.package, source, share=share, way=way)
            records, out = done["outbox"]["delivered"], done["sent_bytes"]
            whole = whole or out
            row = (source.name, size, share, way, done["frames"], records, out, out / max(1, whole), size / max(1, out))
            print(columns.format(*row), flush=True)


def sent(group: Children, work: Path, package: Path, source: Path, *, share: float, way: str) -> dict[str, Any]:
    """What the device reports after one source."""
    policy = work / "policy.toml"
    policy.write_text(
        f'[share]\nnear_duplicates = {share}\nbelow_threshold = "provide"\n[sending]\n{WAYS[way]}\n{NO_REPORT}',
        encoding="utf-8",
    )
    data, state = str(work / "learner"), str(work / "device")
    url = group.serve("learner", "serve", "--data", data, "--package", str(package), "--port", "0", timeout_s=120)
    code = group.run("learner", "invite", "--site", "site", "--data", data)["code"]
    group.run("device", "enroll", "--learner", url, "--code", code, "--state", state)
    done: dict[str, Any] = group.run(
        "device", "process", str(source), "--package", str(package), "--learner", url, "--state", state, "--policy",
        str(policy), accept=(0, 3),
    )  # fmt: skip
    return done


if __name__ == "__main__":
    main()
