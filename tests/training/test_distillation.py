"""What a tuned head is held to besides the corrections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training import tiny_tuning as tiny

from ram_backend.models.tuned import tuned_tensors
from ram_backend.training.distillation import ImageAligner, distillation_loss, drift_loss
from ram_backend.training.tuning import Beside, tune_head
from ram_backend.training.tuning_run import plain_head


def test_drift_costs_its_square_and_later_its_size() -> None:
    assert drift_loss(torch.zeros(2, 3)) == 0
    assert drift_loss(torch.tensor([[0.5]])) == pytest.approx(0.125)
    assert drift_loss(torch.tensor([[-3.0]])) == pytest.approx(2.5)
    assert drift_loss(torch.tensor([[-3.0, 0.0]])) == pytest.approx(1.25)


def test_features_are_compared_by_direction_and_images_without_one_are_left_out() -> None:
    teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    aligned = torch.tensor([[9.0, 0.0], [5.0, 5.0], [0.0, 0.1]])
    assert distillation_loss(aligned, teacher) == pytest.approx(0.0, abs=1e-6)
    turned = torch.tensor([[0.0, 1.0], [5.0, 5.0], [0.0, 0.1]])
    assert distillation_loss(turned, teacher) == pytest.approx(1.0)
    nothing = distillation_loss(turned.requires_grad_(), torch.zeros(3, 2))
    nothing.backward()
    assert nothing == 0
    assert turned.grad is not None
    assert turned.grad.abs().max() == 0


def test_a_head_that_is_distilled_says_more_about_what_the_teacher_sees() -> None:
    material = tiny.material(images=96)
    assert material.tokens is not None
    unknown = replace(material, weights=np.zeros_like(material.weights))
    teacher = np.tanh(material.tokens.astype(np.float32).mean(axis=1)[:, :6] * 2)
    options = tiny.options(validation=0.0, replay=0.0, epochs=20, tags=5, distillation=1.0)
    source = tiny.source()
    tuned = tune_head(
        replace(unknown, weights=material.weights * 1e-6),
        tiny.groups(96),
        source,
        options=options,
        beside=Beside(teacher=teacher),
    )
    plain = tune_head(replace(unknown, weights=material.weights * 1e-6), tiny.groups(96), source, options=options)
    assert tuned.files != plain.files
    distances = []
    for run in (tuned, plain):
        head = plain_head(replace(source, tensors=tuned_tensors(source.tensors, run.files)))
        tokens = torch.tensor(material.tokens.astype(np.float32))
        texts = torch.tensor(np.concatenate(source.texts(source.entries)))
        with torch.no_grad():
            states = head.hidden_states(head.keys_values(tokens), head.queries(texts))[-1].mean(1)
        torch.manual_seed(0)
        aligner = ImageAligner(states.shape[1], 6)
        optimizer = torch.optim.Adam(aligner.parameters(), lr=1e-2)
        for _ in range(150):
            loss = distillation_loss(aligner(states[:, None]), torch.tensor(teacher))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        distances.append(loss.item())
    assert distances[0] < 0.9 * distances[1]
