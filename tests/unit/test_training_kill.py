"""A training killed with SIGKILL and started again ends with the weights of an unbroken one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scgpt.model.config import ScGPTConfig
from scgpt.model.scgpt import ScGPT
from scgpt.tokens.tokens import tokenize
from scgpt.training import resume
from scgpt.training.batches import BatchOptions, CellBatches
from scgpt.training.config import TrainingConfig
from scgpt.training.determinism import isolated_torch
from scgpt.training.finetune import FinetuneLoss, FinetuneRecipe
from scgpt.training.loop import train

N_GENES, N_BATCHES, N_TYPES = 24, 2, 3
RECIPE = FinetuneRecipe(
    objectives={"cls": 1.0, "gep": 1.0, "gepc": 1.0, "ecs": 10.0, "dar": 1.0},
    mask_ratio=0.4,
    explicit_zero=True,
    input_norm="dsbn",
)


def small_run(scratch, *, pause=0.0):
    """Train a small network with dropout, masks, DSBN and all objectives of integration."""
    rng = np.random.default_rng(1)
    values = rng.integers(1, 50, (48, N_GENES)) * (rng.random((48, N_GENES)) < 0.7)
    cells = tokenize(csr_matrix(values.astype(np.float32)), np.arange(N_GENES), cls_id=N_GENES + 1)
    groups = np.arange(48) % N_BATCHES
    options = BatchOptions(batch_size=8, mask_ratio=RECIPE.mask_ratio)
    batches = CellBatches(
        cells,
        pad_id=N_GENES,
        options=options,
        labels=np.arange(48) % N_TYPES,
        batch_labels=groups,
        groups=groups,
    )
    config = ScGPTConfig(
        n_tokens=N_GENES + 2,
        pad_id=N_GENES,
        d_model=16,
        n_heads=2,
        n_layers=2,
        d_ff=16,
        **RECIPE.model_options(n_classes=N_TYPES, n_batch_labels=N_BATCHES),
    )
    model = ScGPT(config, seed=3)
    loss = FinetuneLoss(RECIPE)

    def slow_loss(network, batch):
        time.sleep(pause)
        return loss(network, batch)

    with isolated_torch("cpu", threads=1):
        result = train(
            model,
            loss_fn=slow_loss,
            train_batches=batches,
            valid_batches=batches,
            config=TrainingConfig(epochs=4, learning_rate=1e-3, checkpoint_steps=2, patience=3),
            seed=0,
            scratch=scratch,
        )
    return model, result


def steps_done(folder):
    content = torch.load(folder / resume.FILE_NAME, weights_only=True)
    return content["position"]["step"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_and_resumed_equals_unbroken(tmp_path, root):
    unbroken, expected = small_run(None)
    broken = tmp_path / "broken"
    # The file itself is the child's program, so that both run the very same training.
    child = subprocess.Popen(
        [sys.executable, __file__, str(broken)], env={**os.environ, "PYTHONPATH": str(root)}
    )
    try:
        deadline = time.monotonic() + 300
        while not (broken / resume.FILE_NAME).exists() or steps_done(broken) < 8:
            assert child.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline, "the training did not reach step 8"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    killed_at = steps_done(broken)
    assert 8 <= killed_at < expected.n_steps == 24

    resumed, found = small_run(broken)
    assert found.resumed_step == killed_at
    assert found.best_epoch == expected.best_epoch
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    values = [[row["value"] for row in result.history] for result in (expected, found)]
    assert values[0] == values[1]


if __name__ == "__main__":
    small_run(Path(sys.argv[1]), pause=0.15)
