"""How exact products in single precision are on a GPU."""

import torch


def rounds_products() -> bool:
    """Whether they may be rounded to TF32."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # where someone has said so by torch's newer setting
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
