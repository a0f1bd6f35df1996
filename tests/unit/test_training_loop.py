from __future__ import annotations

import io
import itertools
import math
import zipfile
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scgpt.errors import ConfigError, DataError
from scgpt.training import resume
from scgpt.training.config import TrainingConfig
from scgpt.training.determinism import isolated_torch
from scgpt.training.loop import train


@pytest.fixture(autouse=True)
def one_thread():
    with isolated_torch("cpu", threads=1):
        yield


@dataclass
class Points:
    x: torch.Tensor
    y: torch.Tensor

    @property
    def n_cells(self):
        return len(self.x)

    def to(self, device):
        del device
        return self


class PointBatches:
    """Noisy linear data in a fixed order."""

    def __init__(self, n=24, size=4, seed=0, slope=2.0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 3, generator=generator)
        self.y = self.x.sum(dim=1, keepdim=True) * slope
        self.size = size
        self.fingerprint = f"{n} {size} {seed} {slope}"

    def __len__(self):
        return -(-len(self.x) // self.size)

    def epoch(self, epoch, *, start=0):
        del epoch
        for i in range(start * self.size, len(self.x), self.size):
            yield Points(self.x[i : i + self.size], self.y[i : i + self.size])


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))


def loss_fn(model, batch):
    loss = F.mse_loss(model(batch.x), batch.y)
    return loss, {"mse": loss}


def run(
    model, *, scratch=None, seed=0, loss=loss_fn, valid=True, sources=None, more=None, **options
):
    train_batches, valid_batches = sources or (PointBatches(), PointBatches(n=8, seed=1))
    config = TrainingConfig(**{"epochs": 3, "learning_rate": 0.01, **options})
    return train(
        model,
        loss_fn=loss,
        train_batches=train_batches,
        valid_batches=valid_batches if valid else None,
        config=config,
        seed=seed,
        scratch=scratch,
        **(more or {}),
    )


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def values(result, phase, objective="loss"):
    rows = result.history
    return [r["value"] for r in rows if r["phase"] == phase and r["objective"] == objective]


def test_training_lowers_the_loss_and_writes_rows():
    result = run(network(), epochs=30, learning_rate=0.03, lr_decay=0.95)
    trained, valid = values(result, "train"), values(result, "valid")
    assert len(trained) == len(valid) == 30
    assert valid[-1] < 0.2 * valid[0]
    row = result.history[0]
    assert set(row) == {
        "epoch", "step", "phase", "objective", "value", "lr", "seconds", "cells_per_second",
    }  # fmt: skip
    assert row["step"] == 6
    assert row["cells_per_second"] > 0
    rates = [r["lr"] for r in result.history if r["phase"] == "train" and r["objective"] == "mse"]
    assert rates == pytest.approx([0.03 * 0.95**epoch for epoch in range(30)])
    assert result.n_steps == 180


def test_same_seed_same_weights_other_seed_other_weights():
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.rand(seed + 3)  # whatever ran before must not matter
        run(model, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    run(network())
    assert torch.equal(before, torch.get_rng_state())


def test_the_best_epoch_is_kept_not_the_last():
    model = network()
    states = []
    table = iter([3.0, 1.0, 2.0])

    def evaluate(current):
        states.append(weights(current).clone())
        return {"score": next(table)}

    result = run(model, selection="score", more={"evaluate": evaluate})
    assert (result.best_epoch, result.best_value) == (1, 1.0)
    assert torch.equal(weights(model), states[1])
    assert not model.training
    assert values(result, "valid", "score") == [3.0, 1.0, 2.0]


def test_selection_can_look_for_a_maximum():
    table = iter([0.1, 0.9, 0.5])
    result = run(
        network(),
        selection="pearson",
        selection_mode="max",
        more={"evaluate": lambda _: {"pearson": next(table)}},
    )
    assert (result.best_epoch, result.best_value) == (1, 0.9)


def test_patience_stops_early():
    table = itertools.chain([5.0, 4.0], itertools.repeat(4.5))
    result = run(
        network(),
        epochs=20,
        patience=3,
        selection="score",
        more={"evaluate": lambda _: {"score": next(table)}},
    )
    assert result.stopped_early
    assert result.best_epoch == 1
    assert result.n_epochs == 5


def test_an_equal_value_is_no_improvement():
    result = run(
        network(), epochs=9, patience=2, selection="s", more={"evaluate": lambda _: {"s": 1.0}}
    )
    assert (result.best_epoch, result.n_epochs) == (0, 3)


def test_without_validation_the_last_epoch_counts():
    model, full = network(), network()
    result = run(model, valid=False, patience=1)
    assert (result.best_epoch, result.best_value, result.n_epochs) == (2, None, 3)
    run(full, selection="mse")
    assert values(result, "valid") == []


def test_an_unknown_selection_is_refused():
    with pytest.raises(ConfigError, match=r"'accuracy' is not computed.*loss, mse"):
        run(network(), selection="accuracy")


def no_dropout():
    model = network()
    model[1].p = 0.0
    return model


@pytest.mark.parametrize("n", [24, 22, 21])
def test_accumulated_batches_equal_large_ones(n):
    # 22 and 21 cells leave an incomplete last batch, and 21 an incomplete last group too.
    small, large = no_dropout(), no_dropout()
    data = {size: (PointBatches(n=n, size=size), PointBatches(n=8, seed=1)) for size in (4, 8)}
    options = {"gradient_clip": None, "epochs": 4}
    first = run(small, sources=data[4], accumulate=2, **options)
    second = run(large, sources=data[8], **options)
    assert first.n_steps == second.n_steps
    assert torch.allclose(weights(small), weights(large), atol=1e-6)
    assert values(first, "train") == pytest.approx(values(second, "train"), rel=1e-4)


def test_log_steps_records_windows():
    result = run(network(), log_steps=2, epochs=1)
    assert len(values(result, "step")) == 3
    assert sum(values(result, "step")) / 3 == pytest.approx(values(result, "train")[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_objective(bad):
    calls = itertools.count()

    def broken(model, batch):
        loss, terms = loss_fn(model, batch)
        gep = loss * (bad if next(calls) == 9 else 1.0)
        return loss + gep, {**terms, "gep": gep}

    with pytest.raises(DataError, match=r"gep is not finite at epoch 2, step 8 \(training\)"):
        run(network(), loss=broken)


class Killed(Exception):
    """Stands for a process that ends in the middle."""


def killing(after):
    """Loss that raises at a given call."""
    calls = itertools.count()

    def loss(model, batch):
        if next(calls) == after:
            raise Killed
        return loss_fn(model, batch)

    return loss


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("after", [3, 6, 8, 9, 17, 22])
def test_a_resumed_run_ends_like_an_unbroken_one(tmp_path, after, accumulate):
    options = {"checkpoint_steps": 1, "accumulate": accumulate, "log_steps": 2}
    unbroken, broken = network(), network()
    expected = run(unbroken, **options)
    with pytest.raises(Killed):
        run(broken, loss=killing(after), scratch=tmp_path, **options)
    resumed = network()
    found = run(resumed, scratch=tmp_path, **options)
    assert found.resumed_step > 0
    assert torch.equal(weights(unbroken), weights(resumed))
    timeless = [
        [{k: v for k, v in row.items() if k not in ("seconds", "cells_per_second")} for row in rows]
        for rows in (expected.history, found.history)
    ]
    assert timeless[0] == timeless[1]


def test_resuming_only_from_whole_epochs_works_too(tmp_path):
    unbroken, resumed = network(), network()
    run(unbroken)
    with pytest.raises(Killed):
        run(network(), loss=killing(13), scratch=tmp_path)
    assert run(resumed, scratch=tmp_path).resumed_step == 6
    assert torch.equal(weights(unbroken), weights(resumed))


def test_a_best_epoch_before_the_kill_survives_it(tmp_path):
    def scores():
        return {"evaluate": lambda model: {"score": float(weights(model).abs().sum())}}

    options = {"selection": "score", "learning_rate": 0.05}  # weights grow: epoch 0 stays the best
    unbroken, resumed = network(), network()
    expected = run(unbroken, more=scores(), **options)
    with pytest.raises(Killed):
        run(network(), loss=killing(13), scratch=tmp_path, more=scores(), **options)
    found = run(resumed, scratch=tmp_path, more=scores(), **options)
    assert found.resumed_step == 6
    assert found.best_epoch == expected.best_epoch == 0
    assert torch.equal(weights(unbroken), weights(resumed))


def test_every_step_has_randomness_of_its_own_and_validation_always_the_same():
    drawn = {True: [], False: []}

    def noting(model, batch):
        drawn[model.training].append(torch.rand(()).item())
        return loss_fn(model, batch)

    run(network(), loss=noting)
    assert len(set(drawn[True])) == len(drawn[True]) == 18
    assert drawn[False] == drawn[False][:2] * 3
    assert drawn[False][0] != drawn[False][1]


def test_a_finished_run_is_not_repeated(tmp_path):
    first, second = network(), network()
    expected = run(first, scratch=tmp_path)
    again = run(second, scratch=tmp_path, loss=killing(0))
    assert torch.equal(weights(first), weights(second))
    assert again.history == expected.history


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"seed": 1},
        {"sources": (PointBatches(slope=3.0), PointBatches(n=8, seed=1))},
        {"more": {"fingerprint": "other objectives"}},
    ],
)
def test_a_checkpoint_of_another_run_is_left_alone(tmp_path, caplog, change):
    run(network(), scratch=tmp_path)
    fresh, expected = network(), network()
    run(expected, **change)
    result = run(fresh, scratch=tmp_path, **change)
    assert result.resumed_step == 0
    assert "training starts from the beginning" in caplog.text
    assert torch.equal(weights(fresh), weights(expected))


def test_other_starting_weights_are_another_run(tmp_path, caplog):
    run(network(), scratch=tmp_path)
    other = network()
    with torch.no_grad():
        other[0].bias += 1e-4
    assert run(other, scratch=tmp_path).resumed_step == 0
    assert "starting weights" in caplog.text


def flip_a_weight(content):
    """Change one bit of a tensor of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
        place = content.index(archive.read(data), data.header_offset)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", ["half", "empty", "text", "foreign", "flipped"])
def test_a_damaged_checkpoint_means_a_fresh_start(tmp_path, caplog, damage):
    path = tmp_path / resume.FILE_NAME
    run(network(), scratch=tmp_path)
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        broken = {
            "half": content[: len(content) // 2],
            "empty": b"",
            "text": b"not a checkpoint",
            "flipped": flip_a_weight(content),
        }
        path.write_bytes(broken[damage])
    fresh, expected = network(), network()
    run(expected)
    assert run(fresh, scratch=tmp_path).resumed_step == 0
    assert "training starts from the beginning" in caplog.text
    assert torch.equal(weights(fresh), weights(expected))


def test_a_checkpoint_holds_plain_values_only_and_leaves_no_litter(tmp_path):
    run(network(), scratch=tmp_path, checkpoint_steps=1)
    assert [path.name for path in tmp_path.iterdir()] == [resume.FILE_NAME]
    content = torch.load(tmp_path / resume.FILE_NAME, weights_only=True)
    assert content["position"]["finished"]
    assert content["position"]["step"] == 18


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    model, expected = network(), network()
    run(expected)
    run(model, scratch=blocked)
    assert "could not be written" in caplog.text
    assert torch.equal(weights(model), weights(expected))


def test_frozen_parameters_do_not_move():
    model = network()
    model[0].requires_grad_(requires_grad=False)
    before = model[0].weight.clone()
    run(model)
    assert torch.equal(before, model[0].weight)
    assert not torch.equal(network()[3].weight, model[3].weight)


def test_progress_writes_lines_where_there_is_no_terminal(capsys):
    run(network(), more={"progress": True})
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert "valid mse" in lines[2]
    assert captured.out == ""
    run(network())
    assert capsys.readouterr().err == ""
