"""``python -m pyg_match.ops.native`` builds the library."""

import argparse
from pathlib import Path

from pyg_match.ops.native.build import FOLDER, NAME, build

parser = argparse.ArgumentParser(description="Build the library of pyg_match.")
parser.add_argument("--out", type=Path, default=FOLDER / NAME, help="the file to write (%(default)s)")
parser.add_argument("--baseline", action="store_true", help="only for what every processor of this kind has")
parser.add_argument("--machine", default="", help="kind of processor, if it is not this machine's")
parser.add_argument("options", nargs="*", help="more options of the compiler, after --")
given = parser.parse_args()
print(build(given.out, given.machine, given.options, quiet=False, baseline=given.baseline))
