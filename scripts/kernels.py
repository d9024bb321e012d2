"""``make kernels``: compiles the native engine's kernels where they lie, if there is a compiler.

Without one the engine uses torch's operations. ``cc`` and CC are as everywhere; arguments name the directory of the
source and another one for the library.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "inference_server/engines/kernels"
# No errno and no traps, so that loops over sqrtf and rintf become vectors; nothing that changes a result.
FLAGS = ("-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-Wall", "-Wextra")
MACHINES = {"x86_64": ("-march=x86-64-v4",), "AMD64": ("-march=x86-64-v4",)}
"""Processors that compute in bfloat16 have AVX-512; the engine uses float32 on others, and none of this."""


def main(source: Path = SOURCE, *, into: Path | None = None) -> int:
    """Compiles, or says why not; a compiler that fails is an error, none is not."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    target = (into or source) / "libkernels.so"
    target.parent.mkdir(exist_ok=True)
    if compiler is None:
        print("· no C compiler: the native engine will use torch's operations, which are slower")
        return 0
    # At once in its place, for a running server may have the old one open.
    beside = target.with_suffix(f".{os.getpid()}")
    files = [path for path in sorted(source.iterdir()) if path.suffix in (".c", ".h")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    flags = (*FLAGS, *MACHINES.get(platform.machine(), ()), f'-DSOURCE_DIGEST="{digest}"')
    own = [str(path) for path in files if path.suffix == ".c"]
    done = subprocess.run([compiler, *flags, "-o", str(beside), *own, "-lm"], check=False)
    if done.returncode == 0:
        beside.replace(target)
    else:
        print("· the kernels do not compile: the native engine will use torch's operations, which are slower")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2]), into=Path(sys.argv[2]) if len(sys.argv) > 2 else None))
