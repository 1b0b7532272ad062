"""The sizes of the images of a pair."""

import math

from pyg_match.data import KeypointPair


def sizes_of(pair: KeypointPair) -> list[list[float]]:
    """Widths and heights of both images; where the pair does not know them, a box around the keypoints."""
    if pair.get("image_size") is not None:
        return [[max(1.0, round(side)) for side in size] for size in pair.image_size.tolist()]
    boxes = []
    for pos in pair.pos.split(pair.num_keypoints[0].tolist()):
        boxes.append([math.ceil(side) + 1.0 for side in pos.amax(0).tolist()] if len(pos) else [1.0, 1.0])
    return boxes
