"""The asymmetric loss against its definition."""

import torch

from ram_backend.training.head_tuning import asymmetric_loss


def test_it_follows_the_paper_s_formula() -> None:
    logits = torch.tensor([[0.3, -0.2, 2.0]])
    labels = torch.tensor([[1, 0, 0]])
    p = torch.sigmoid(logits)[0]
    shifted = (p - 0.05).clamp_min(0)
    expected = -p[0].log() - sum(shifted[i] ** 4 * (1 - shifted[i]).log() for i in (1, 2))
    torch.testing.assert_close(asymmetric_loss(logits, labels, torch.ones(1, 3)), expected)


def test_a_pair_counts_as_much_as_it_is_known() -> None:
    logits, labels = torch.tensor([[1.0, -0.5], [0.2, 2.0]], requires_grad=True), torch.tensor([[1, 0], [0, 1]])
    weights = torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    loss = asymmetric_loss(logits, labels, weights)
    alone = [asymmetric_loss(logits, labels, torch.eye(4)[pair].reshape(2, 2)) for pair in range(4)]
    torch.testing.assert_close(loss, sum(weight * part for weight, part in zip(weights.flatten(), alone, strict=True)))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1, 0] == 0
    assert (logits.grad.flatten()[[0, 1, 3]] != 0).all()


def test_negatives_below_the_margin_cost_nothing_and_extremes_stay_finite() -> None:
    known = torch.ones(1, 1)
    assert asymmetric_loss(torch.tensor([[-4.0]]), torch.zeros(1, 1), known) == 0
    for logit, label in ((200.0, 0.0), (-200.0, 1.0)):
        loss = asymmetric_loss(torch.tensor([[logit]]), torch.tensor([[label]]), known)
        assert torch.isfinite(loss)
        assert loss > 1
