"""DISK keypoints, by kornia."""

from torch import Tensor

from pyg_match.checks import real_number, whole_number
from pyg_match.features.extractor import Extractor, single_precision
from pyg_match.pretrained import load_weights


class DISK(Extractor):
    r"""Keypoints at whole pixels from `"DISK: Learning Local Features with Policy Gradient"
    <https://arxiv.org/abs/2006.13566>`_.

    kornia's implementation with the official ``depth`` weights and LightGlue's defaults. Keypoints come row
    by row; ``score`` is a raw network output above 0, not a probability.

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps
            all.
        detection_threshold: Keep keypoints whose score is higher.
        nms_window_size: Side in pixels of the window in which a keypoint has the highest score; odd.

    Example:
        >>> import torch
        >>> DISK(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        128
    """

    descriptor_dim = 128
    min_side = 17  # the coarsest level, of cells of 16 pixels, is normalised and needs a second cell

    def __init__(
        self,
        max_num_keypoints: int | None = 2048,
        detection_threshold: float = 0.0,
        nms_window_size: int = 5,
    ) -> None:
        super().__init__(max_num_keypoints)
        from kornia import feature

        self.detection_threshold = real_number("detection_threshold", detection_threshold)
        self.nms_window_size = whole_number("nms_window_size", nms_window_size, most=1025)
        if self.nms_window_size % 2 == 0:
            raise ValueError(f"'nms_window_size' must be odd, got {nms_window_size}")
        with single_precision():
            self.model = feature.DISK(desc_dim=self.descriptor_dim)
        self.model.load_state_dict(load_weights("disk"))
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        features = self.model(
            image[None],
            n=self.max_num_keypoints,
            window_size=self.nms_window_size,
            score_threshold=self.detection_threshold,
            pad_if_not_divisible=True,
        )[0]
        return {"pos": features.keypoints, "x": features.descriptors, "score": features.detection_scores}
