"""WorldStereo: consistent videos along exact camera paths, and a 3D scene, from one picture."""

import logging

__version__ = "0.1.0"

# What these say while diffusers loads torchao, where that is installed, is nothing that a user could mend.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
