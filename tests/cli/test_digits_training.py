"""The digit classifier learns, stops, continues, and nothing about that changes its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from idx_files import write

import niello as nl
from niello.cli.digits import data, network
from niello.cli.digits.training import ENTRY, Settings, Trainer
from niello.core.errors import ConfigError, CorruptFile


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Digits:
    return data.from_directory(write(tmp_path_factory.mktemp("idx")))


Make = Callable[..., Trainer]


@pytest.fixture(scope="module")
def whole(digits: data.Digits, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Two epochs without interruption."""
    trainer = _maker(digits, tmp_path_factory.mktemp("whole"))("run")
    for _ in range(2):
        trainer.run_epoch(lambda loss: None, never)
    return trainer


@pytest.fixture
def make(digits: data.Digits, tmp_path: Path) -> Make:
    return _maker(digits, tmp_path)


def _maker(digits: data.Digits, tmp_path: Path) -> Make:
    def trainer(name: str, *, batch: int = 16, seed: int = 5, dropout: float = 0.3) -> Trainer:
        settings = Settings(digits.name, len(digits.train_labels), batch, seed, dropout)
        model = network.build(digits.size, seed, dropout)
        options = nl.CompileOptions(threads=1)
        path = tmp_path / name / "digits.safetensors"
        return Trainer(model, digits, settings, path, device=None, options=options)

    return trainer


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """True once it was asked `steps` times."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def values(trainer: Trainer) -> dict[str, bytes]:
    return {v.name: v.value.tobytes() for v in trainer.network.graph.variables}


def test_learns(make: Make) -> None:
    trainer = make("run", dropout=0.0)
    for _ in range(8):
        assert trainer.run_epoch(lambda loss: None, never)
    losses = trainer.progress.losses
    assert len(losses) == 8 * 6
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])
    assert trainer.progress.accuracies[-1] > 0.8


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_resuming_gives_the_same_bits(make: Make, whole: Trainer, steps: int) -> None:
    first = make("parts")
    first.run_epoch(lambda loss: None, never)
    assert not first.run_epoch(lambda loss: None, after(steps))
    assert (first.progress.epoch, first.progress.step) == (1, steps)

    second = make("parts")
    second.resume()
    assert second.progress == first.progress
    assert second.run_epoch(lambda loss: None, never)
    assert second.progress == whole.progress
    assert values(second) == values(whole)


def test_the_checkpoint_is_whole(make: Make) -> None:
    """Weights, moments of the optimiser, its step, the generator's state, and the progress."""
    trainer = make("run")
    trainer.run_epoch(lambda loss: None, never)
    from safetensors import safe_open

    with safe_open(trainer.checkpoint, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()[ENTRY])
    assert stored["adam/step"] == 6
    assert stored["dropout/state"].dtype == np.uint32
    assert np.any(stored["dropout/state"] != nl.random_state(5))
    assert len(stored) == 2 + 3 * 8
    assert about["progress"]["epoch"] == 1
    assert not list(trainer.checkpoint.parent.glob(".*")), "nothing temporary is left"


def test_a_fresh_graph_classifies_alike(make: Make, digits: data.Digits) -> None:
    trainer = make("run")
    trainer.run_epoch(lambda loss: None, never)
    fresh = network.build(digits.size, seed=99)
    fresh.graph.load_variables(trainer.checkpoint, strict=False)
    reader = network.Classifier(fresh, batch=16, device=None, options=nl.CompileOptions())
    pixels = digits.pixels(digits.test_images)
    found = reader.probabilities(pixels)
    assert found.shape == (40, 10)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(found.argmax(axis=1) == digits.test_labels) > 0.3  # of 0.1 by chance


def test_seeds_and_epochs_have_their_own_order(make: Make) -> None:
    a, b = make("a"), make("b", seed=6)
    assert sorted(a.order(0)) == list(range(96))
    assert list(a.order(0)) == list(a.order(0))
    assert list(a.order(0)) != list(a.order(1))
    assert list(a.order(0)) != list(b.order(0))


def test_other_settings_are_refused(make: Make) -> None:
    make("run").save()
    with pytest.raises(ConfigError, match="was made with batch 16") as caught:
        make("run", batch=32).resume()
    assert "received" in str(caught.value) and "batch 32" in str(caught.value)


def test_other_networks_are_refused(make: Make) -> None:
    make("run", dropout=0.0).save()
    with pytest.raises(CorruptFile, match="dropout/state"):
        make("run").resume()


def test_broken_checkpoints_are_refused(make: Make) -> None:
    trainer = make("run")
    before = values(trainer)
    with pytest.raises(FileNotFoundError):
        trainer.resume()
    trainer.save()
    body = trainer.checkpoint.read_bytes()
    trainer.checkpoint.write_bytes(body[: len(body) // 2])
    with pytest.raises(CorruptFile, match="not a complete safetensors file"):
        trainer.resume()
    trainer.network.graph.save_variables(trainer.checkpoint, {"other": "file"})
    with pytest.raises(CorruptFile, match="does not say where training stood"):
        trainer.resume()
    assert values(trainer) == before
    trainer.progress.step = trainer.steps + 1
    trainer.save()
    with pytest.raises(CorruptFile, match="step 7 of 6"):
        trainer.resume()


def test_batches_larger_than_the_data_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="from 1 to the 96 training images; received 97"):
        make("run", batch=97)
