"""XFeat keypoints, by kornia."""

from torch import Tensor

from pyg_match.checks import real_number
from pyg_match.features.extractor import Extractor, single_precision
from pyg_match.pretrained import load_weights


class XFeat(Extractor):
    r"""Fast keypoints with 64 channels from `"XFeat: Accelerated Features for Lightweight Image Matching"
    <https://arxiv.org/abs/2404.19174>`_.

    kornia's implementation with the official weights. Inside, the image is resized to multiples of 32,
    where the keypoints are whole pixels :math:`i`; kornia reports :math:`i \cdot r` with the ratio
    :math:`r` of the sizes, we report the centre of that pixel, :math:`(i + 0.5) \cdot r - 0.5`.

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps
            all.
        detection_threshold: Keep keypoints whose heatmap value, in (0, 1), is higher.

    Example:
        >>> import torch
        >>> XFeat(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        64
    """

    descriptor_dim = 64

    def __init__(self, max_num_keypoints: int | None = 2048, detection_threshold: float = 0.05) -> None:
        super().__init__(max_num_keypoints)
        from kornia import feature

        detection_threshold = real_number("detection_threshold", detection_threshold)
        with single_precision():
            self.model = feature.XFeat(detection_threshold=detection_threshold)
        self.model.net.load_state_dict(load_weights("xfeat"))
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        limit = height * width if self.max_num_keypoints is None else self.max_num_keypoints
        features = self.model.detectAndCompute(image[None], top_k=limit)[0]
        # kornia computes in inference mode; only copies can take part in training later.
        pos, x, score = (features[key].clone() for key in ("keypoints", "descriptors", "scores"))
        inner = [max(32, length // 32 * 32) for length in (width, height)]
        ratio = pos.new_tensor([width / inner[0], height / inner[1]])
        return {"pos": pos + (ratio - 1) / 2, "x": x, "score": score}
