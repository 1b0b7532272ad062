"""Run the code of a page as a reader would who has two photos: python .ci/snippets.py README.md."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.cbook import get_sample_data
from PIL import Image

from pyg_match.datasets import warped_pair
from pyg_match.features import load_image

text = Path(sys.argv[1]).read_text(encoding="utf-8")
photo = load_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
for number, image in enumerate(warped_pair(photo, seed=4)[:2]):
    pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(pixels.squeeze()).save(f"image{number}.jpg")

names: dict[str, object] = {}
for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
    start = time.perf_counter()
    exec(compile(code, sys.argv[1], "exec"), names)
    print(f"{len(code.splitlines())} lines: {time.perf_counter() - start:.1f} s")
for line in re.findall(r"^(pyg-match match image0.*)$", text, re.MULTILINE):
    if "runs/" not in line:  # of a matcher that was trained before
        subprocess.run(shlex.split(line), check=True)
assert Path("matches.png").exists() and Path("matches.npz").exists()
