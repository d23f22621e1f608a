"""facenet-pytorch's InceptionResnetV1, from a file or from its own download.

What its card says, and why:

* ``size`` 160x160; ``mean`` 0.5 and ``std`` 128/255 are its fixed_image_standardization, (x - 127.5) / 128.
* ``box`` (12.5, 7.5, 99.5, 122): these networks saw MTCNN's face rectangle with a margin, stretched to a
  square, never five aligned points. Its place in ArcFace's frame was measured on 100 LFW pictures with that
  package's own MTCNN and the margin (14 of 160 px) of its LFW evaluation: edges at 11.4, 7.4, 98.5 and 122.1
  (medians), then centred on the midpoint of the eyes, as mirrored training pictures are.
"""

from __future__ import annotations

import logging
import pickle

import torch
from torch import nn

from ..card import RecognizerCard, SurrogateError
from .optional import require

WEIGHTS = ("vggface2", "casia-webface")

logger = logging.getLogger(__name__)


def load(card: RecognizerCard) -> nn.Module:
    """Loads the card's file, a state dict; without one, the named weights, downloaded on first use.

    Raises:
        SurrogateError: the package, the file or the download is missing, or the file is not of this network.
    """
    facenet = require("facenet_pytorch", card, "erasablemask[train]")
    if card.path is not None:
        network = facenet.InceptionResnetV1()
        try:
            state = torch.load(card.path, map_location="cpu", weights_only=True)
            # The released files end in a classifier of the training identities, which embeds nothing.
            network.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")})
        except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as error:
            raise SurrogateError(
                f"{card.name}: {card.path} is not a state dict of InceptionResnetV1: {error}"
            ) from error
        return network
    if card.weights not in WEIGHTS:
        raise SurrogateError(
            f"{card.name}: expected a file, or weights {' or '.join(WEIGHTS)}, found {card.weights!r}"
        )
    logger.info("%s: facenet-pytorch downloads %s unless torch's cache has it", card.name, card.weights)
    try:
        network = facenet.InceptionResnetV1(pretrained=card.weights)
    except OSError as error:
        raise SurrogateError(
            f"{card.name}: facenet-pytorch could not download {card.weights} ({error}); "
            "without a network, name a state dict in the card's field file"
        ) from error
    del network.logits
    return network
