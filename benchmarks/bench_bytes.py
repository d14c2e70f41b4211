#!/usr/bin/env python3
"""All that leaves against the files it came from: videos, DICOM files or folders, by the commands a user types.

    benchmarks/bench_bytes.py --package P [--sources FILE_OR_FOLDER ...] [--shares 0 0.3]

A device processes each source under each share of `near_duplicates` and sends every result to a learner over HTTP
(doubtful ones too: nobody is asked). Bytes sent are those of the request bodies, all included. Default sources: the
612-frame clip and the DICOM files of ../shared/data, which are not part of the project.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from featureloop.cli.processes import Children, children
from featureloop.sharing.policy import NO_REPORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    sources = [data / "video" / "colonoscopy-clinicdb-612frames-25fps.mp4", data / "dicom" / "valid"]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--sources", type=Path, nargs="+", default=sources)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.3])
    args = parser.parse_args()
    columns = "| {} | {} | {:g} | {} | {} | {} | {:.1f} |"
    print("| source | its bytes | near_duplicates | frames | records | bytes sent | source over sent |")
    print(f"|{'---|' * 7}")
    for source in args.sources:
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        for share in args.shares:
            with tempfile.TemporaryDirectory() as work, children() as group:
                done = sent(group, Path(work), args.package, source, share=share)
            records, out = done["outbox"]["delivered"], done["sent_bytes"]
            row = (source.name, size, share, done["frames"], records, out, size / max(1, out))
            print(columns.format(*row), flush=True)


def sent(group: Children, work: Path, package: Path, source: Path, *, share: float) -> dict[str, Any]:
    """What the device reports after one source."""
    policy = work / "policy.toml"
    policy.write_text(f'[share]\nnear_duplicates = {share}\nbelow_threshold = "provide"\n{NO_REPORT}', encoding="utf-8")
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
