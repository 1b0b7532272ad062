"""SIFT and RootSIFT keypoints, by OpenCV."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.checks import real_number
from pyg_match.features.extractor import Extractor


class SIFT(Extractor):
    r"""Scale- and rotation-invariant keypoints from `"Distinctive Image Features from Scale-Invariant
    Keypoints" <https://www.cs.ubc.ca/~lowe/papers/ijcv04.pdf>`_.

    OpenCV's implementation on the grey image. It uses OpenCV's precise upscaling, since the default one
    shifts all keypoints by a quarter of a pixel. One place can have several keypoints of different
    orientation. Besides the usual attributes there are ``scale``, the diameter in pixels of the described
    region (OpenCV's ``size``), and ``orientation``, in radians from the x axis towards the y axis
    (clockwise on the screen).

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest response. ``None`` keeps
            all.
        detection_threshold: OpenCV's ``contrastThreshold``; the default is LightGlue's, lower than OpenCV's
            0.04.
        edge_threshold: Keep keypoints whose ratio of curvatures is lower, OpenCV's ``edgeThreshold``.

    Example:
        >>> import torch
        >>> SIFT(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        128
    """

    descriptor_dim = 128
    min_side = 1

    def __init__(
        self,
        max_num_keypoints: int | None = 2048,
        detection_threshold: float = 0.0066667,
        edge_threshold: float = 10.0,
    ) -> None:
        super().__init__(max_num_keypoints)
        self.detection_threshold = real_number("detection_threshold", detection_threshold, least=0)
        self.edge_threshold = real_number("edge_threshold", edge_threshold, positive=True)

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        import cv2

        red, green, blue = image.cpu()
        grey = (0.299 * red + 0.587 * green + 0.114 * blue) * 255
        # Made anew for every image: OpenCV's objects can be neither copied nor sent to another process.
        detector = cv2.SIFT.create(
            nfeatures=self.max_num_keypoints or 0,
            contrastThreshold=self.detection_threshold,
            edgeThreshold=self.edge_threshold,
            enable_precise_upscale=True,
        )
        found, descriptors = detector.detectAndCompute(grey.round().clamp(0, 255).byte().numpy(), None)
        if not found:
            return self.empty(image)
        table = np.array(
            [(*k.pt, k.response, k.size, math.radians(k.angle)) for k in found], dtype=np.float32
        )
        # OpenCV keeps more than asked for where responses tie.
        best = np.argsort(-table[:, 2], kind="stable")[: self.max_num_keypoints]
        columns = torch.from_numpy(table[best]).to(image.device)
        x = self.normalize(torch.from_numpy(descriptors[best]).to(image.device))
        score, scale, orientation = columns[:, 2:].unbind(1)
        return {"pos": columns[:, :2], "x": x, "score": score, "scale": scale, "orientation": orientation}

    def empty(self, image: Tensor) -> dict[str, Tensor]:
        features = super().empty(image)
        return {**features, "scale": features["score"].clone(), "orientation": features["score"].clone()}

    def normalize(self, descriptors: Tensor) -> Tensor:
        """Bring raw descriptors :math:`(N, 128)` to unit length."""
        return F.normalize(descriptors, dim=1)


class RootSIFT(SIFT):
    r"""SIFT compared with the Hellinger kernel, from `"Three things everyone should know to improve object
    retrieval" <https://www.robots.ox.ac.uk/~vgg/publications/2012/Arandjelovic12/arandjelovic12.pdf>`_.

    .. math:: \mathbf{x}' = \sqrt{\mathbf{x} / \lVert \mathbf{x} \rVert_1}

    Takes the arguments of :class:`SIFT`.

    Example:
        >>> import torch
        >>> RootSIFT(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        128
    """

    def normalize(self, descriptors: Tensor) -> Tensor:
        """Bring raw descriptors :math:`(N, 128)` to unit length by way of their square roots."""
        return F.normalize(F.normalize(descriptors, p=1.0, dim=1).sqrt(), dim=1)
