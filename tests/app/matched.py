"""A pair whose matches are known to be right, wrong, missed or neither."""

import torch
from helpers import random_pair

COUNTS = (60, 50)
RIGHT, WRONG, MISSED, UNJUDGED = range(0, 20), range(20, 26), range(26, 33), range(33, 36)


def matched_pair():
    """Keypoints that are matched rightly, wrongly, or not at all, and some whose truth nobody knows."""
    torch.manual_seed(0)
    pair = random_pair(*COUNTS)
    truth, matches = torch.full((60,), -1), torch.full((60,), -1)
    truth[:33], truth[33:36] = torch.arange(33), -2
    matches[:26], matches[33:36] = torch.arange(26), torch.arange(33, 36)
    matches[20:26] = matches[20:26].roll(1)
    pair.y = torch.cat([truth, back(truth)])
    pair.x[7], pair.x[11], pair.x[12] = pair.x[3], pair.x[3], pair.x[3]
    scores = torch.linspace(1, 0.3, 60)
    return pair, torch.cat([matches, back(matches)]), torch.cat([scores, scores[:50]])


def back(partners):
    """The same of the other image."""
    found = torch.full((COUNTS[1],), -1)
    found[partners[partners >= 0]] = (partners >= 0).nonzero().squeeze(1)
    return found
