"""ALIKED keypoints, by kornia."""

from torch import Tensor

from pyg_match.checks import real_number, shown, whole_number
from pyg_match.features.extractor import Extractor, single_precision
from pyg_match.pretrained import load_weights

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")


class ALIKED(Extractor):
    r"""Sub-pixel keypoints and deformable descriptors from `"ALIKED: A Lighter Keypoint and Descriptor
    Extraction Network via Deformable Transformation" <https://arxiv.org/abs/2304.03608>`_.

    kornia's implementation with the official weights; the defaults are LightGlue's, whose
    ``aliked-lightglue`` weights go with ``aliked-n16``. An image without a score above
    ``detection_threshold`` gives the keypoints above its mean score, as in LightGlue.

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps all
            (20,000 at most).
        detection_threshold: Keep keypoints whose score, in (0, 1), is higher. With 0, always the best
            ``max_num_keypoints``.
        nms_radius: Radius in pixels in which a keypoint has the highest score.
        model_name: ``"aliked-t16"`` (64 channels), ``"aliked-n16"``, ``"aliked-n16rot"`` or
            ``"aliked-n32"`` (128).

    Example:
        >>> import torch
        >>> ALIKED(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        128
    """

    def __init__(
        self,
        max_num_keypoints: int | None = 2048,
        detection_threshold: float = 0.2,
        nms_radius: int = 2,
        model_name: str = "aliked-n16",
    ) -> None:
        super().__init__(max_num_keypoints)
        from kornia import feature

        detection_threshold = real_number("detection_threshold", detection_threshold, least=0, most=1)
        nms_radius = whole_number("nms_radius", nms_radius, least=0, most=512)
        if model_name not in MODELS:
            raise ValueError(f"'model_name' must be one of {', '.join(MODELS)}, got {shown(model_name)}")
        limit = -1 if self.max_num_keypoints is None else self.max_num_keypoints
        with single_precision():
            self.model = feature.ALIKED(model_name, limit, detection_threshold, nms_radius)
        # The one buffer that kornia has and the file lacks is a constant grid.
        weights = load_weights(model_name)
        self.model.load_state_dict({"dkd.hw_grid": self.model.dkd.hw_grid, **weights})
        self.descriptor_dim = self.model.desc_head.sf_conv.out_channels
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        features = self.model(image[None])[0]
        return {"pos": features.keypoints, "x": features.descriptors, "score": features.keypoint_scores}
