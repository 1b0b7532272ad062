"""What training minimises: all losses of a batch of pairs."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pyg_match.data import KeypointPair
from pyg_match.data.keypoint_pair import without_edges
from pyg_match.nn import GraphMatcher, MatcherOutput
from pyg_match.nn.layer_assignment import LayerAssignment
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.training import losses, padded_losses
from pyg_match.training.config import LossConfig


@dataclass
class _Assignment:
    """The assignment after one layer, dense or on edges that no mask forbids, in single precision."""

    found: LayerAssignment
    matchability: Optional[Tensor]  # logits; None for a head without them


class Objective(nn.Module):
    r"""A matcher and its losses as one module, so that data-parallel wrappers see all parameters used in it.

    The loss of a batch is the mean over its pairs of

    .. math::
        \ell = \sum_n w_n \ell_n

    with the weights of a :class:`LossConfig`. The assignment is supervised after several layers, each through the
    head of that layer, as in LightGlue; matchers with one head (Sinkhorn) after the last one.

    Args:
        matcher: The matcher to train.
        weights: Weights of the losses.
        teacher: A matcher to imitate, which learns nothing. Of one with more layers than the matcher, its last
            assignment is imitated, and the descriptors of its first ones.
        teacher_edges: Whether the teacher sees the edges of the pair; otherwise complete graphs of its keypoints.

    Raises:
        ValueError: If descriptors shall be distilled from a teacher with fewer layers or other channels, there is no
            matchability for its loss, assignments shall be distilled from a teacher that assigns on edges only, or the
            matcher or the teacher stops early or prunes keypoints.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(4, 2), x=torch.rand(4, 8), image_size=(9, 9)) for _ in range(2)
        ... ]
        >>> pair = KeypointPair.from_sets(*sets, y=torch.tensor([0, 1, -1, -2, 0, 1, -1, -2]))
        >>> objective = Objective(GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2), LossConfig())
        >>> sorted(objective(pair, layers=(0, 1)))
        ['assignment', 'confidence', 'total']
    """

    def __init__(
        self,
        matcher: GraphMatcher,
        weights: LossConfig,
        teacher: Optional[GraphMatcher] = None,
        teacher_edges: bool = False,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = weights
        self._teacher_edges = teacher_edges
        for role, model in (("matcher", matcher), ("teacher", teacher)):
            if model is None:
                continue
            depth, width = model.config.depth_confidence, model.config.width_confidence
            if depth is not None or width is not None:
                raise ValueError(
                    f"training needs a {role} that sends all keypoints through all layers, got depth_confidence = "
                    f"{depth} and width_confidence = {width}; set both to None"
                )
        if teacher is not None and weights.distill_descriptors:
            ours, theirs = ((m.config.num_layers, m.config.hidden_channels) for m in (matcher, teacher))
            if ours[0] > theirs[0] or ours[1] != theirs[1]:
                raise ValueError(
                    "loss.distill_descriptors needs a teacher with at least the layers and with the channels of the "
                    f"matcher, {ours}, got {theirs}; set it to 0"
                )
        if (
            teacher is not None
            and teacher_edges
            and weights.distill_assignment
            and teacher.config.assign_on_edges
        ):
            raise ValueError(
                "loss.distill_assignment needs a teacher that assigns all to all, got one with assign_on_edges=True; "
                "load it with assign_on_edges=False"
            )
        if weights.matchability and matcher.config.assignment == "sinkhorn":
            raise ValueError(
                f"loss.matchability = {weights.matchability} needs a matcher with matchabilities, but this one has "
                "assignment='sinkhorn'; set it to 0"
            )
        # Edges that the matcher draws anew are not the batch's. What is learned from all pairs serves them too.
        self._on_edges = matcher.config.assign_on_edges and matcher.config.redraw_after is None
        self._teacher = (teacher,)  # in a tuple, so that it is neither a submodule nor saved

    def forward(
        self, batch: KeypointPair, layers: tuple[int, ...], related_share: float | Tensor = 1.0
    ) -> dict[str, Tensor]:
        """The losses, averaged over pairs, and their weighted sum ``total``.

        Args:
            batch: Pairs with labels ``y``.
            layers: Layers after which the assignment is supervised; the last one must be among them.
            related_share: Of a part of a larger batch, how many of its pairs are related, over the mean of all parts:
                assignments are distilled on these pairs alone.
        """
        prepared = self.matcher.prepare(batch)
        output = self.matcher(prepared, return_descriptors=True)
        # Sums over many keypoints in full precision.
        with torch.autocast(batch.pos.device.type, enabled=False):
            return self._losses(batch, prepared.graph, output, layers, related_share)

    def _losses(
        self,
        batch: KeypointPair,
        graph: PairGraph,
        output: MatcherOutput,
        layers: tuple[int, ...],
        related_share: float | Tensor,
    ) -> dict[str, Tensor]:
        w, counts = self.weights, batch.num_keypoints
        descriptors = [x.to(torch.promote_types(x.dtype, torch.float)) for x in output.descriptors or ()]
        pair = losses.pair_of_nodes(counts, batch.y.numel())
        num_pairs, last = counts.size(0), len(descriptors) - 1
        if len(self.matcher.assignments) == 1:
            layers = (last,)
        # The matcher has assigned all to all already, unless it assigns on edges.
        final = self._assign(last, descriptors[last], graph, output.assignment)
        decided = self._decide(final, batch) if w.confidence and len(self.matcher.assignments) > 1 else None
        parts: dict[str, list[tuple[float, Tensor]]] = {
            "assignment": [],
            "confidence": [],
            "matchability": [],
        }
        for i in layers:
            share = w.layer_decay ** (last - i)
            assignment = final if i == last else self._assign(i, descriptors[i], graph)
            partnered, alone, y = self._likelihoods(assignment, batch)
            nll = losses.assignment_nll(partnered, alone, y, pair, num_pairs, w.balance)
            parts["assignment"].append((share, nll))
            if w.matchability and assignment.matchability is not None:
                bce = losses.matchability_loss(assignment.matchability, y, pair, num_pairs)
                parts["matchability"].append((share, bce))
            if decided is not None and i < last:
                confidence = self.matcher.confidences[i](descriptors[i].detach()).squeeze(-1)
                decision = self._decide(assignment, batch)
                parts["confidence"].append(
                    (1.0, losses.confidence_loss(confidence, decision, decided, pair, num_pairs))
                )
        found = {
            name: torch.stack([share * value for share, value in values]).sum(0).mean()
            / sum(share for share, _ in values)
            for name, values in parts.items()
            if values
        }
        if output.orthogonality is not None and w.orthogonality:
            found["orthogonality"] = output.orthogonality
        found |= self._distillation(batch, final, descriptors, pair)
        if "distill_assignment" in found:
            found["distill_assignment"] = found["distill_assignment"] * related_share
        found["total"] = torch.stack([getattr(w, name) * value for name, value in found.items()]).sum()
        found["total"] = found["total"] + 0 * self._idle(layers)
        return found

    def _idle(self, layers: tuple[int, ...]) -> Tensor:
        """Something of every head that this step leaves out: data-parallel wrappers wait for all gradients."""
        if len(self.matcher.assignments) == 1:
            return torch.zeros(())
        # The last layer has no confidence, and is never left out.
        pairs = enumerate(zip(self.matcher.assignments, self.matcher.confidences, strict=False))
        heads = [head for i, pair in pairs if i not in layers for head in pair]
        some = [p.flatten()[0] for head in heads for p in head.parameters() if p.requires_grad]
        return torch.stack(some).sum() if some else torch.zeros(())

    def _assign(
        self, i: int, x: Tensor, graph: PairGraph, found: Optional[LayerAssignment] = None
    ) -> _Assignment:
        """The assignment after layer ``i``, unless it was found before."""
        if found is None:
            on_edges = self._on_edges and graph.between.edges.groups is None
            found = self.matcher.assign(i, x, graph, on_edges)
        has_matchability = self.matcher.config.assignment != "sinkhorn"
        matchability = self.matcher.assignment_head(i).matchability(x) if has_matchability else None
        edges, edge_index, allowed = found.edges, found.edge_index, graph.between.mask
        if edges is not None and edge_index is not None and allowed is not None:
            found = found._replace(edges=edges[allowed], edge_index=edge_index[:, allowed])
        return _Assignment(found, matchability)

    def _likelihoods(self, assignment: _Assignment, batch: KeypointPair) -> tuple[Tensor, Tensor, Tensor]:
        found = assignment.found
        if found.padded is not None:
            return *padded_losses.log_likelihoods(*found.padded, batch.y), batch.y
        if found.dense is not None:
            return *losses.dense_log_likelihoods(found.dense, batch.y), batch.y
        partner = losses.partner_nodes(batch.y, batch.num_keypoints)
        return losses.edge_log_likelihoods(*_edges(assignment), partner)

    @torch.no_grad()
    def _decide(self, assignment: _Assignment, batch: KeypointPair) -> Tensor:
        found = assignment.found
        if found.padded is not None:
            return padded_losses.decisions(*found.padded)
        if found.dense is not None:
            return losses.dense_decisions(found.dense)
        log_assignment, edges, matchability = _edges(assignment)
        return losses.edge_decisions(log_assignment, edges, nn.functional.logsigmoid(-matchability))

    def _distillation(
        self, batch: KeypointPair, final: _Assignment, descriptors: list[Tensor], pair: Tensor
    ) -> dict[str, Tensor]:
        teacher, w = self._teacher[0], self.weights
        found: dict[str, Tensor] = {}
        if teacher is None:
            return found
        with torch.no_grad():
            truth = teacher(batch if self._teacher_edges else without_edges(batch), return_descriptors=True)
        if w.distill_assignment:
            ours, theirs = final.found, truth.assignment.padded
            if ours.padded is not None and theirs is not None:
                divergence = padded_losses.distillation(ours.padded[0], theirs[0], ours.padded[1])
            elif ours.dense is not None:
                divergence = losses.assignment_distillation(ours.dense, truth.log_assignment)
            else:
                log_assignment, edges, matchability = _edges(final)
                divergence = losses.edge_assignment_distillation(
                    log_assignment,
                    nn.functional.logsigmoid(-matchability),
                    truth.log_assignment,
                    edges,
                    batch.num_keypoints,
                )
            # Where nothing is to be matched, the teacher's matches are wrong.
            related = related_pairs(batch).to(divergence.dtype)
            found["distill_assignment"] = (related * divergence).sum() / related.sum().clamp(min=1)
        if w.distill_descriptors:
            found["distill_descriptors"] = losses.descriptor_distillation(
                descriptors, truth.descriptors[: len(descriptors)], pair, batch.num_keypoints.size(0)
            ).mean()
        return found


def related_pairs(batch: KeypointPair) -> Tensor:
    """Which pairs of a batch have something to match, 1 or 0 for each."""
    counts = batch.num_keypoints
    pair = losses.pair_of_nodes(counts, batch.y.numel())
    found = torch.zeros(counts.size(0), dtype=torch.float, device=pair.device)
    return found.index_add(0, pair, (batch.y >= 0).float()).clamp(max=1)


def supervised_layers(spec: str | int, depth: int, generator: torch.Generator) -> tuple[int, ...]:
    """The layers after which a step supervises the assignment; always with the last.

    Args:
        spec: ``"all"``, ``"last"``, a number of evenly spaced layers, or ``"random:n"`` for the last and ``n``
            others, drawn anew in each step.
        depth: Number of layers.
        generator: Source of randomness.

    Example:
        >>> supervised_layers(3, 9, torch.Generator())
        (0, 4, 8)
    """
    last = depth - 1
    if spec == "all":
        return tuple(range(depth))
    if spec == "last" or depth == 1:
        return (last,)
    if isinstance(spec, int):
        count = min(spec, depth)
        return tuple(sorted({round(last * (1 - i / max(count - 1, 1))) for i in range(count)}))
    count = min(int(spec.removeprefix("random:")), last)
    return (*sorted(torch.randperm(last, generator=generator)[:count].tolist()), last)


def _edges(assignment: _Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Log assignment of the edges, the edges themselves, and matchability."""
    found: Any = (assignment.found.edges, assignment.found.edge_index, assignment.matchability)
    return found
