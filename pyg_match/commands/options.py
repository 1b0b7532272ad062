"""Options that several commands have."""

from typing import Annotated

import typer

MaxKeypoints = Annotated[int, typer.Option(min=1, help="Largest number of keypoints in an image.")]
Resize = Annotated[int, typer.Option(min=0, help="Longer side for detection in pixels; 0 keeps the size.")]
