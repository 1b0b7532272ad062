"""ALIKED keypoints."""

from torch import Tensor

from pyg_match.checks import real_number, shown, whole_number
from pyg_match.features.aliked_network import ALIKEDNetwork
from pyg_match.features.extractor import Extractor, single_precision
from pyg_match.pretrained import load_weights
from pyg_match.weight_state import weight_state

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")


class ALIKED(Extractor):
    r"""Sub-pixel keypoints and deformable descriptors from `"ALIKED: A Lighter Keypoint and Descriptor
    Extraction Network via Deformable Transformation" <https://arxiv.org/abs/2304.03608>`_.

    The official weights; the defaults are LightGlue's, whose ``aliked-lightglue`` weights go with
    ``aliked-n16``. An image without a score above ``detection_threshold`` gives the keypoints above its mean
    score, as in LightGlue. Keypoints and descriptors are those of :class:`kornia.feature.ALIKED`, several times as
    fast on a CPU. :attr:`model` is kornia's module with these weights, for whoever needs gradients or all that it
    offers; :attr:`network` is what runs.

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
        self._options = (self.max_num_keypoints, detection_threshold, nms_radius)
        self.network = ALIKEDNetwork(self.model, *self._options)
        self._state = weight_state(self.model)
        self.descriptor_dim = self.model.desc_head.sf_conv.out_channels
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        return self.detect_batch(image.unsqueeze(0))[0]

    def detect_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
        state = weight_state(self.model)
        if state != self._state:
            self.network, self._state = ALIKEDNetwork(self.model, *self._options).eval(), state
        found: list[dict[str, Tensor]] = self.network(images)
        return found
