"""Weights that candidates share, and how they are judged with them."""

from pathlib import Path

import optuna
import pytest
import torch
from nas_fakes import FakePredictor, fake_measure, make_job

from hardsight.candidate import Candidate
from hardsight.errors import JobError, StorageError
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators.module import NetworkModule
from hardsight.nas.evaluators.shared_weights import SharedWeights, largest
from hardsight.nas.evaluators.supernet import FILE, Options, SupernetEvaluator
from hardsight.nas.network import INPUT, Layer, Network
from hardsight.nas.search import prepare, run_search
from hardsight.nas.spaces import Task
from hardsight.nas.spaces.quant_cnn import Options as SpaceOptions
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

SPACE = QuantCnnSpace(
    Task((1, 8, 8), 10),
    SpaceOptions(resolutions=(8,), max_depth=1, widths=((8, 16), (8, 24)), expansions=(1, 2)),
)


@pytest.fixture(scope="module")
def data() -> LabelledData:
    return load_data(DataSpec(limit=300), seed=0)


def smallest(index: int = -1) -> Candidate:
    return SPACE.suggest(optuna.trial.FixedTrial(SPACE.anchors()[index]))


def network(channels: int, kernel: int) -> Network:
    return Network(
        "n",
        (2, 6, 6),
        (
            Layer("conv", "conv", (INPUT,), channels=channels, kernel=kernel, relu=True),
            Layer("pool", "pool", ("conv",)),
            Layer("classifier", "linear", ("pool",), channels=3),
        ),
    )


def made(data: LabelledData, **options: object) -> SupernetEvaluator:
    return SupernetEvaluator(SPACE, data, 1, Options(supernet_epochs=2, calibration=4, **options))


def test_largest_network_has_the_most_of_everything() -> None:
    found = SPACE.network(largest(SPACE))
    widest = {layer.name: layer.channels for layer in found.layers}
    assert (widest["stem"], widest["s0_b0_expand"], widest["s1_b0_project"]) == (16, 32, 24)
    assert {layer.kernel for layer in found.layers if "depthwise" in layer.name} == {5}


def test_a_candidate_takes_the_first_channels_and_the_middle_of_the_window() -> None:
    shared = SharedWeights(network(4, 5))
    held = dict(shared.lend(NetworkModule(network(4, 5))).named_parameters())
    part = dict(shared.lend(NetworkModule(network(3, 3))).named_parameters())
    assert torch.equal(part["layers.conv.weight"], held["layers.conv.weight"][:3, :, 1:4, 1:4])
    assert torch.equal(part["layers.classifier.weight"], held["layers.classifier.weight"][:, :3])
    assert torch.equal(part["norms.conv.bias"], held["norms.conv.bias"][:3])


def test_gradients_of_parts_add_up_in_the_whole() -> None:
    shared = SharedWeights(network(4, 5))
    expected = torch.zeros(4, 2, 5, 5)
    for module in (NetworkModule(network(4, 5)), NetworkModule(network(3, 3))):
        module(torch.rand(8, 2, 6, 6)).square().sum().backward()
        shared.take_gradients(module)
        gradient = module.layers["conv"].weight.grad
        if len(gradient) == 3:
            expected[:3, :, 1:4, 1:4] += gradient
        else:
            expected += gradient
    found = next(p.grad for p in shared.parameters() if p.shape == expected.shape)
    torch.testing.assert_close(found, expected)


def test_misfits_are_named() -> None:
    shared = SharedWeights(network(4, 5))
    assert shared.misfit(network(4, 3)) == ""
    assert "(5,)" in shared.misfit(network(5, 3)) or "(5, 2, 3, 3)" in shared.misfit(network(5, 3))
    other = Network("n", (2,), (Layer("conv", "linear", (INPUT,), channels=3),))
    assert "is a linear" in shared.misfit(other)


class Shrinking(QuantCnnSpace):
    """The largest of all numbers is the smallest network."""

    name = "shrinking"

    def network(self, candidate: Candidate) -> Network:
        return network(40 - candidate.params["stem_width"], 3)


def test_a_space_without_a_largest_network_is_refused(data: LabelledData) -> None:
    space = Shrinking(Task((1, 8, 8), 10))
    with pytest.raises(JobError, match="'shrinking' has no network of which all others are parts"):
        SupernetEvaluator.for_job(space, data, make_job(evaluator="supernet"))


@pytest.mark.parametrize("options", [{"networks": 1}, {"supernet_epoch": 3}, {"calibration": 0}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(JobError, match=f"evaluator.{next(iter(options))}"):
        prepare(make_job(evaluator={"name": "supernet", **options}), FakePredictor())


def test_it_learns_candidates_inherit_and_the_same_seed_gives_the_same(data: LabelledData) -> None:
    one, same = (SupernetEvaluator(SPACE, data, 1, Options(supernet_epochs=4)) for _ in range(2))
    before = torch.get_rng_state()
    found = one.evaluate(smallest(), 0)
    assert torch.equal(before, torch.get_rng_state())
    assert found.accuracy > 0.2  # guessing gives 0.1
    assert found.epochs == 0
    again = same.evaluate(smallest(), 0)
    assert all((found.weights[k] == again.weights[k]).all() for k in found.weights)
    assert found.weights["layers.stem.weight"].shape[0] == 8
    assert one.to_onnx(found).graph.initializer
    assert (one.predict(found, "validation").argmax(axis=1) == data.part("validation")[1]).mean() == (
        pytest.approx(found.accuracy)
    )


def test_killed_training_goes_on_where_it_was(tmp_path: Path, data: LabelledData) -> None:
    def kill(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    whole, killed, resumed = (made(data) for _ in range(3))
    killed.begin(tmp_path, kill)
    with pytest.raises(KeyboardInterrupt):
        killed.evaluate(smallest(), 0)
    seen: list[int] = []
    resumed.begin(tmp_path, lambda what, done, total: seen.append(done))
    expected, found = (e.evaluate(smallest(), 0).weights for e in (whole, resumed))
    assert seen == [1, 2]
    assert all((expected[k] == found[k]).all() for k in expected)
    seen.clear()
    kept = made(data)
    kept.begin(tmp_path, lambda what, done, total: seen.append(done))
    assert (kept.evaluate(smallest(), 0).weights["layers.stem.weight"] == found["layers.stem.weight"]).all()
    assert not seen
    (tmp_path / FILE).write_bytes(b"torn")
    torn = made(data)
    torn.begin(tmp_path)
    with pytest.raises(StorageError, match="delete the file"):
        torn.evaluate(smallest(), 0)


def test_further_training_starts_from_the_inherited_weights(data: LabelledData) -> None:
    evaluator = made(data)
    inherited = evaluator.evaluate(smallest(0), 0).weights["layers.stem.weight"]
    still = SupernetEvaluator(SPACE, data, 1, Options(learning_rate=1e-12))
    still._trained = evaluator._trained
    tuned = still.evaluate(smallest(0), 0, epochs=1)
    assert tuned.epochs == 1
    torch.testing.assert_close(torch.tensor(tuned.weights["layers.stem.weight"]), torch.tensor(inherited))


def test_divergence_ends_the_search_with_advice(data: LabelledData) -> None:
    with pytest.raises(JobError, match="diverged; give"):
        made(data, learning_rate=1e30).evaluate(smallest(), 0)


def test_a_search_trains_the_supernet_once_and_tunes_the_front(tmp_path: Path) -> None:
    job = make_job(trials=4, final_epochs=1, evaluator={"name": "supernet", "supernet_epochs": 1})
    report = run_search(job, tmp_path, predictor=FakePredictor(), measure=fake_measure)
    assert (tmp_path / FILE).exists()
    assert report.counts["judged with inherited weights"] + report.counts.get("seen before", 0) == 4
    assert report.rows
