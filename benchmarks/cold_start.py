"""Start-up: `import ram_backend`, and `ram-backend tag` on one photo from start to end.

    python benchmarks/cold_start.py [--runs 7]

Prints the median and the range of whole processes. The starter bundle is installed first, outside the timing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from ram_backend.demo import photo_paths
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Times start-up.")
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    find_bundle("starter", load_settings().bundles_dir)
    photo = str(photo_paths()[0])
    cases = {
        "python -c pass": ["-c", "pass"],
        "import ram_backend": ["-c", "import ram_backend"],
        "tag one photo": ["-m", "ram_backend", "tag", photo],
        "tag one photo, one known tag": ["-m", "ram_backend", "tag", photo, "--tags", "cat"],
        "tag one photo, one new tag": ["-m", "ram_backend", "tag", photo, "--tags", "my product name"],
        "for comparison: import torch": ["-c", "import torch"],
    }
    for name, arguments in cases.items():
        command = [sys.executable, *arguments]
        seconds(command)
        taken = [seconds(command) for _ in range(runs)]
        print(f"{name:38} median {statistics.median(taken):6.3f} s   {min(taken):.3f} .. {max(taken):.3f}")


if __name__ == "__main__":
    main()
