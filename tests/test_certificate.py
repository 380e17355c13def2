"""How the proof judges: what it lets pass, what it refuses, and what it says of what it could not try."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import exporter
from exporter import parity, proof
from exporter.cli import main
from exporter.judge import Judge
from exporter.lowering import lower
from exporter.lowering.rewrite import Pass, apply
from exporter.network import as_network
from exporter.parity import Parity, relative_l2
from exporter.reference import live
from exporter.sources import resolve


def judged(
    errors: list[float],
    moves: list[float],
    dtype: str = "float32",
    logits: float = 0.0,
    bulk: list[float] | None = None,
    common: float = 0.0,
    logits_moves: float = 0.0,
    rounding: float = 0.0,
) -> list[str]:
    count = len(errors)
    figures = Parity(
        runtime="onnxruntime",
        dtype=dtype,
        relative_l2=tuple(errors),
        bulk_l2={"attribution": tuple(errors if bulk is None else bulk)},
        common_l2={"attribution": common},
        max_abs=(0.1,) * count,
        logits_relative_l2=(logits,) * count,
        undecided=(5,) * count,
        sensitivity=tuple(moves),
        logits_sensitivity=(logits_moves,) * count,
        rounding={"attribution": rounding},
        worst=("worst at [0]: 1, should be 2",) * count,
    )
    return figures.failures()


@pytest.mark.parametrize(
    ("errors", "moves", "complaint"),
    [
        ([1e-7, 2e-7, 9e-6, 1e-7], [0, 0, 0, 0], None),
        ([1e-7, 1e-3, 1e-7, 1e-7], [0, 4e-4, 0, 0], None),  # a mask flipped, as it does in the reference
        ([1e-7, 1e-3, 1e-3, 1e-3], [0, 4e-4, 3e-4, 1e-2], None),
        (
            [1e-7, 1e-3, 1e-7, 1e-7],
            [0, 2e-4, 0, 0],
            "sample 1, relative L2 1.00e-03 > 8.0e-04; worst at [0]: 1, should be 2",
        ),
        ([1e-7, 1e-3, 1e-7, 1e-7], [0, 1e-7, 0, 0], "sample 1, relative L2 1.00e-03 > 1.0e-05"),
        (
            [2e-5, 1e-3, 1e-3, 1e-3],
            [1, 1, 1, 1],
            "0% of 4 samples agree to 1e-05 in 75% of their nonzero values, at least 25% must",
        ),
        ([1e-7, float("nan")], [0, 1], "sample 1, relative L2 nan > 4.0e+00"),
        ([1e-7, float("inf")], [0, 1], "sample 1, relative L2 inf > 4.0e+00"),
        ([1e-7] * 10 + [1.0] * 10, [0.0] * 20, "onnxruntime float32: and 5 more"),
    ],
)
def test_float32(errors: list[float], moves: list[float], complaint: str | None) -> None:
    found = judged(errors, moves)
    assert bool(found) == (complaint is not None), found
    assert complaint is None or any(complaint in line for line in found), found


def test_in_a_large_image_each_sample_has_a_flipped_mask_somewhere() -> None:
    assert not judged([3e-4] * 4, [1e-4] * 4, bulk=[1e-5, 2e-5, 2e-5, 2e-5])
    assert "0% of 4 samples agree" in judged([3e-4] * 4, [1e-4] * 4, bulk=[2e-5] * 4)[0]
    assert "sample 0, relative L2 5.00e-04 > 4.0e-04" in judged([5e-4] * 4, [1e-4] * 4, bulk=[0.0] * 4)[0]


def test_what_differs_in_every_sample_is_no_flipped_mask() -> None:
    flipped = {"errors": [3e-4] * 4, "moves": [1e-4] * 4, "bulk": [0.0] * 4}
    assert not judged(**flipped, common=1e-5)
    assert "all 4 samples differ in the same places" in judged(**flipped, common=2e-5)[0]
    assert not judged([5e-3, 0.2], [0.0, 0.06], "float16", common=1.0)


def test_what_samples_have_in_common() -> None:
    logits, expected = np.ones((4, 2)), np.ones((4, 100)) / 10

    def common(found: np.ndarray, count: int = 4) -> float:
        pairs = [(found[:1], expected[:1]), (found[1:count], expected[1:count])]
        sides = [
            [parity.Values(logits[: len(rows)], {"attribution": rows}) for rows in side]
            for side in zip(*pairs, strict=True)
        ]
        return parity.compare("eager", "float32", *sides, (0,) * count, {"attribution": 0.0}).common_l2["attribution"]

    elsewhere = expected.copy()
    elsewhere[range(4), range(4)] = 9
    assert common(elsewhere) == 0
    border = elsewhere.copy()
    border[:, 50:54] *= 1.01
    assert common(border) == pytest.approx(0.01 * 2 / 10)
    assert common(border, 2) == 0  # too few


def test_float64_knows_no_excuse() -> None:
    assert not judged([1e-16, 2e-16], [1, 1], "float64")
    assert "sample 1, relative L2 1.00e-09 > 1.0e-10" in judged([1e-16, 1e-9], [1, 1], "float64")[0]


def test_float16_has_a_bound_that_sensitivity_does_not_move() -> None:
    assert not judged([5e-3, 0.2], [0.0, 0.06], "float16")
    assert "sample 1, relative L2 2.60e-01 > 2.5e-01" in judged([5e-3, 0.26], [0.0, 0.2], "float16")[0]
    assert judged([1.0], [2.0], "float16")


def test_logits_are_continuous() -> None:
    """They may move as far as live autograd's own, but never far."""
    assert "logits of sample 0, relative L2 2.00e-05 > 1e-05" in judged([1e-7], [1], logits=2e-5)[0]
    assert not judged([1e-7], [0], logits=2e-5, logits_moves=5e-6)
    assert "logits of sample 0, relative L2 3.00e-05 > 2e-05" in judged([1e-7], [0], logits=3e-5, logits_moves=5e-6)[0]
    assert "logits of sample 0, relative L2 2.00e-03 > 1e-03" in judged([1e-7], [0], logits=2e-3, logits_moves=1.0)[0]
    assert "logits of sample 0" in judged([1e-11], [0], "float64", logits=2e-10, logits_moves=1.0)[0]


def test_a_network_may_make_more_of_rounding() -> None:
    """Four times of what live autograd in float32 is from itself in float64, but never much."""
    amplified = {"errors": [3e-4] * 4, "moves": [1e-4] * 4, "bulk": [5e-5] * 4, "common": 5e-5}
    assert not judged(**amplified, rounding=1.5e-5)
    few, alike = judged(**amplified, rounding=1e-5)[::-1]
    assert "0% of 4 samples agree to 4e-05 in 75%" in few
    assert "all 4 samples differ in the same places, as flipped masks do not: relative L2 5.00e-05 > 4e-05" in alike
    assert "0% of 1 samples agree to 1e-03" in judged([2e-3], [1.0], rounding=1.0)[0]


class Amplifying(nn.Module):
    """Of two inputs one is known by its last digits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.mix = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        meta = meta * 1e-3 + 1
        meta = (meta - meta.mean(1, keepdim=True)) / meta.std(1, keepdim=True)
        return self.head(self.conv(image).relu().mean((2, 3))) + self.mix(meta)


@pytest.fixture(scope="module")
def amplifying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amplifying") / "a"
    inputs = [exporter.Input("image", (3, 16, 16)), exporter.Input("meta", (6,))]
    exporter.export(Amplifying(), inputs, folder, formats=["onnx"])
    return folder


def scale(file: Path, output: str, factor: float, to: Path) -> None:
    """Write an ONNX file with one output multiplied."""
    model = onnx.load(file)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["right" if name == output else name for name in names]
    model.graph.initializer.append(onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [factor]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], [output]))
    onnx.save(model, to)


@pytest.mark.parametrize("output", ["logits", "attribution"])
@pytest.mark.parametrize("spec", ["mlp", "cifar_resnet20"])
def test_a_small_error_is_no_rounding(spec: str, output: str, tmp_path: Path) -> None:
    found = resolve(spec)
    exporter.export(found.model, found.sample_shape, tmp_path / "a", formats=["onnx"])
    scale(tmp_path / "a" / "model.onnx", output, 1 + 2e-5, tmp_path / "model.onnx")
    network = as_network(found.model, torch.zeros(1, *found.sample_shape)).eval()
    with pytest.raises(exporter.VerificationFailed, match=f"onnxruntime float32: {output}"):
        proof.prove({"onnx": tmp_path / "model.onnx"}, Judge(network, "guided"))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_amplified_inside_is_proven_with_any_inputs(amplifying: Path, seed: int) -> None:
    certificate = exporter.verify(amplifying, Amplifying(), seed=seed)
    (measured,) = (one for one in certificate.runtimes if one.dtype == "float32")
    assert measured.rounding["attribution_meta"] > 1e-6 > measured.rounding["attribution_image"]


def test_one_input_does_not_excuse_another(amplifying: Path, tmp_path: Path) -> None:
    scale(amplifying / "model.onnx", "attribution_image", 1 + 5e-5, tmp_path / "model.onnx")
    inputs = {"image": torch.zeros(1, 3, 16, 16), "meta": torch.zeros(1, 6)}
    with pytest.raises(exporter.VerificationFailed, match="attribution_image, 0% of 16 samples agree to 1e-05 in"):
        proof.prove({"onnx": tmp_path / "model.onnx"}, Judge(as_network(Amplifying(), inputs).eval(), "guided"))


def test_what_a_network_makes_of_rounding() -> None:
    """That of the sample that moves least: in others a mask may flip."""
    exact = parity.Values(np.ones((3, 2)), {"attribution": np.ones((3, 100))})
    found = parity.Values(
        np.ones((3, 2)), {"attribution": 1 + np.array([[3e-5], [2e-5], [np.nan]]) * np.ones((3, 100))}
    )
    assert parity.rounding([found], [exact]) == {"attribution": pytest.approx(2e-5 * 75**0.5 / 10)}


def test_relative_l2() -> None:
    expected = np.array([[3.0, 4.0], [0, 0], [0, 0], [1, 1]])
    found = np.array([[3.0, 4.5], [0, 0], [0, 1e-9], [np.nan, 1]])
    errors = relative_l2(found, expected)
    assert errors[:3] == [0.1, 0.0, float("inf")]
    assert np.isnan(errors[3])


def test_the_bulk_is_what_differs_least_of_what_is_not_zero() -> None:
    expected = np.zeros((4, 100))
    expected[:, :8] = 0.5
    found = expected.copy()
    found[0, :2] = 0.1
    found[1, :3] = 0.1
    found[2, :8] *= 1.01
    found[3, :2] = np.nan
    errors = relative_l2(found, expected, share=0.75)
    assert errors == pytest.approx([0.0, 0.4 / 2**0.5, 0.01 * 0.75**0.5, 0.0])
    assert relative_l2(np.zeros((1, 3)), np.zeros((1, 3)), share=0.75) == [0.0]
    assert np.isnan(relative_l2(np.full((1, 3), np.nan), np.ones((1, 3)), share=0.75))


def test_what_cancels_in_the_one_and_leaves_rounding_in_the_other_agrees() -> None:
    zero, one, two = np.zeros((1, 2)), np.array([[3.0, 4.0]]), np.array([[0.3, 0.4]])

    def compared(left: float) -> tuple[float, ...]:
        found = [parity.Values(one, {"attribution": rows}) for rows in (one, two, np.array([[left, 0.0]]))]
        expected = [parity.Values(one, {"attribution": rows}) for rows in (one, two, zero)]
        return parity.compare("eager", "float64", found, expected, (0, 0, 0), {"attribution": 0.0}).relative_l2

    assert compared(0.0) == (0.0, 0.0, 0.0)
    assert compared(1e-16)[2] < parity.TOLERANCE["float64"]
    assert compared(1e-14)[2] > parity.TOLERANCE["float64"]  # more than rounding of the largest, 5


# -- what the reference counts as undecided -----------------------------------------------------------------------


class Shifted(nn.Module):
    """Rectifies the input as it is, spelled in some way."""

    def __init__(self, rectify) -> None:
        super().__init__()
        self.rectify = rectify

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rectify(x).flatten(1)


@pytest.mark.parametrize(
    ("rectify", "values", "count"),
    [
        (F.relu, [1.0, 1e-9, -1e-9, 0.0, -1.0], 2),  # an exact zero is decided
        (F.relu, [1.0, 1e-3, -1e-3, 0.0, -1.0], 0),
        (F.relu6, [1.0, 6.0, 6.000001, 5.999999, 7.0], 2),
        (lambda x: x.clamp(min=0), [1.0, 1e-9], 1),
        (lambda x: x.clamp(min=0, max=2), [1.0, 2.000001], 1),
        (lambda x: x.clamp(min=-1), [1.0, 1e-9], 0),  # no rectifier
        (torch.tanh, [1.0, 1e-9], 0),
    ],
)
def test_undecided_rectifiers(rectify, values: list[float], count: int) -> None:
    image = torch.tensor([values, [1.0] * len(values)], dtype=torch.float64)
    *_, undecided = live(Shifted(rectify), image, torch.tensor([0, 0]), "guided")
    assert undecided.tolist() == [count, 0]


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([[1.0, 2, 3, 4], [5, 6, 7, 8], [1, 1, 1, 1], [1, 1, 1, 1]], 0),  # exact ties are decided: the first one
        ([[6.0000001, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [4, 3, 2, 1]], 1),
        ([[6.0000001, 2, 8.0000001, 4], [5, 6, 7, 8], [1, 2, 3, 4], [4, 3, 2, 1]], 2),
    ],
)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), lambda x: F.max_pool2d(x, kernel_size=2, stride=2)])
def test_undecided_windows(pool, rows: list[list[float]], count: int) -> None:
    image = torch.tensor(rows, dtype=torch.float64)[None, None]
    *_, undecided = live(Shifted(pool), image, torch.tensor([0]), "gradient")
    assert undecided.tolist() == [count]


def test_undecided_windows_with_overlap_and_padding() -> None:
    """Counted by hand: windows of three, one apart two, padded by one; the rival pair sits in two of them."""
    image = torch.arange(25, dtype=torch.float64).reshape(1, 1, 5, 5)
    image[0, 0, 2, 1], image[0, 0, 2, 2] = 50, 50 + 1e-7
    *_, undecided = live(Shifted(nn.MaxPool2d(3, 2, 1)), image, torch.tensor([0]), "gradient")
    assert undecided.tolist() == [1]


# -- what the proof tries -----------------------------------------------------------------------------------------


def export(model: nn.Module, shape: tuple[int, ...], folder: Path, **options: object) -> dict:
    return dict(exporter.export(model, shape, folder, **options).manifest["parity"])


def test_more_inputs_are_tried_while_too_few_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert export(model, (4,), tmp_path / "a")["cases"] == ({"image": [1, 4]}, {"image": [3, 4]})
    monkeypatch.setitem(parity.AGREEING, "float32", 2.0)
    with pytest.raises(
        exporter.VerificationFailed, match=r"100% of 16 samples agree to 1e-05 in 75% of .* at least 200% must"
    ):
        export(model, (4,), tmp_path / "b")


def test_a_zero_attribution_is_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nclass Negative(torch.nn.Module):\n    def forward(self, x):\n        return -torch.relu(x)\n"
    )
    model = f"{tmp_path}/net.py:Negative"
    result = CliRunner().invoke(main, ["export", "--model", model, "--input-shape", "4", "--output", f"{tmp_path}/a"])
    assert result.exit_code == 0, result.output
    assert "Note: the attribution is zero on all of these inputs" in result.stdout
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["parity"]["zero"] == 4


class Casting(nn.Module):
    """Casts to float32, which it is already in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(x).to(torch.float32))


class Pinned(Casting):
    """Holds a constant in float32 whatever it is asked for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(F.linear(torch.relu(x), torch.eye(4, dtype=torch.float32)))


def test_a_network_that_casts_to_float32_is_proven_in_float64(tmp_path: Path) -> None:
    certificate = export(Casting(), (4,), tmp_path / "a")
    assert certificate["skipped"] == ""
    tried = [(one["runtime"], one["dtype"], one["samples"]) for one in certificate["runtimes"]]
    assert sorted(tried) == [
        ("eager", "float64", 2),
        ("onnxruntime", "float32", 4),
        ("torchscript", "float32", 4),
        ("torchscript", "float64", 2),
    ]


def test_a_network_that_pins_float32_is_proven_in_float32(tmp_path: Path) -> None:
    certificate = export(Pinned(), (4,), tmp_path / "a")
    assert certificate["skipped"].startswith("the network does not run in float64: ")
    assert [(one["runtime"], one["dtype"]) for one in certificate["runtimes"]] == [
        ("torchscript", "float32"),
        ("onnxruntime", "float32"),
    ]


def test_a_file_that_does_not_run_in_float64_is_proven_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that stops for another reason is not."""
    from exporter.runtime import open_session

    def stopping(message: str) -> None:
        def opened(path: Path, runtime: str, *given: object, **options: object):
            session = open_session(path, runtime, *given, **options)

            def stop(*args: object) -> None:
                raise RuntimeError(message)

            if options.get("double"):
                session._run = stop
            return session

        monkeypatch.setattr(proof, "open_session", opened)

    stopping("expected scalar type Double but found Float")
    certificate = export(Casting(), (4,), tmp_path / "a")
    assert certificate["skipped"] == (
        "torchscript does not run it in float64: expected scalar type Double but found Float"
    )
    assert ("torchscript", "float64") not in [(one["runtime"], one["dtype"]) for one in certificate["runtimes"]]
    stopping("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        export(Casting(), (4,), tmp_path / "b")


def test_a_file_that_stops_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.runtime import open_session

    def opened(path: Path, runtime: str, *given: object, **options: object):
        session = open_session(path, runtime, *given, **options)

        def stop(*args: object) -> None:
            raise RuntimeError("Shape mismatch\n  in Expand")

        if runtime == "onnxruntime":
            session._run = stop
        return session

    monkeypatch.setattr(proof, "open_session", opened)
    with pytest.raises(
        exporter.VerificationFailed, match=r"^onnxruntime does not run it in float32; .*: Shape mismatch$"
    ):
        export(Casting(), (4,), tmp_path / "a")
    assert not (tmp_path / "a").exists()


class Skewed:
    """A session that is wrong by five percent, in some calls only."""

    def __init__(self, session: exporter.Session, when) -> None:
        self.session, self.when = session, when
        self.inputs = session.inputs

    def __call__(self, image, target=-1):
        logits, attribution = self.session(image, target)
        wrong = np.array([self.when(len(image), int(one)) for one in np.broadcast_to(target, len(image))])
        return exporter.Explanation(logits, attribution * np.where(wrong, 1.05, 1).reshape(-1, 1, 1, 1).astype("f"))


@pytest.mark.parametrize(
    "when",
    [
        lambda batch, target: batch > 1,
        lambda batch, target: target >= 0,
        lambda batch, target: target < 0,
        lambda batch, target: batch == 1,
    ],
    ids=["in a batch", "for a named class", "for the predicted class", "alone"],
)
def test_a_runtime_that_is_wrong_only_sometimes_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when
) -> None:
    """Also in a network so deep that masks do flip: the error is no larger than theirs may be, but explains nothing."""
    from exporter.runtime import open_session

    def skewed(path: Path, runtime: str, *given: object, **options: object):
        session = open_session(path, runtime, *given, **options)
        return Skewed(session, when) if runtime == "onnxruntime" else session

    monkeypatch.setattr(proof, "open_session", skewed)
    model = resolve("cifar_resnet56").model
    with pytest.raises(exporter.VerificationFailed, match="onnxruntime float32: attribution of sample"):
        exporter.export(model, (3, 32, 32), tmp_path / "a", formats=["onnx"])


def test_a_pass_that_is_wrong_is_caught_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly(program, target: str):
        lowered = lower(program, target)
        return apply(lowered, [ALMOST_RELU]) if target == "onnxruntime" else lowered

    aten = torch.ops.aten
    ALMOST_RELU = Pass("almost", (aten.relu.default,), lambda m: m.value(m.node.args[0]).clamp(min=0) * (1 + 1e-8))
    monkeypatch.setattr("exporter.pipeline.lower", slightly)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(exporter.VerificationFailed, match="eager float64: logits of sample 0"):
        exporter.export(model, (4,), tmp_path / "a", formats=["onnx"])


def test_targets_take_turns(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    targets = export(model, (4,), tmp_path / "a")["targets"]
    assert [target == -1 for target in targets] == [True, False, True, False]


def test_a_near_tie_of_classes_is_no_test_of_a_gradient(tmp_path: Path) -> None:
    """Where rounding may decide which class is predicted, the proof names the class."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return torch.cat([y, y * (1 + 1e-7)], 1)

    assert -1 not in export(Twins(), (4,), tmp_path / "a")["targets"]


def test_verify_leaves_the_training_mode_alone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    model[1].eval()
    exporter.export(model, (4,), tmp_path / "a")
    exporter.verify(tmp_path / "a", model)
    assert [module.training for module in model] == [True, False, True, True]


def test_the_wrong_model_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    exporter.export(first, (4,), tmp_path / "a", seed=5)
    assert exporter.verify(tmp_path / "a", first).seed == 5
    assert exporter.verify(tmp_path / "a", first, seed=6, batches=[2]).batches == (2,)
    with pytest.raises(exporter.VerificationFailed, match="was made from other weights than the Sequential given"):
        exporter.verify(tmp_path / "a", second)
    file = {"onnx": tmp_path / "a" / "model.onnx"}
    with pytest.raises(exporter.VerificationFailed, match="logits of sample 0"):
        proof.prove(file, Judge(as_network(second, torch.zeros(1, 4)), "guided"))
    with pytest.raises(exporter.VerificationFailed, match="attribution"):
        proof.prove(file, Judge(as_network(first, torch.zeros(1, 4)), "gradient"))


@pytest.mark.parametrize(
    "when",
    [lambda batch, target: target >= 0, lambda batch, target: target < 0],
    ids=["for a named class", "for the predicted class"],
)
def test_what_sensitivity_excuses_must_agree_for_some_sample_of_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when
) -> None:
    original = proof.open_session

    def skewed(path, runtime, *given, **options):
        session = original(path, runtime, *given, **options)
        return Skewed(session, when) if runtime == "onnxruntime" else session

    monkeypatch.setattr(proof, "open_session", skewed)
    monkeypatch.setitem(proof.NUDGE, "float32", 1.0)  # live autograd moves far: no bound of a sample is left
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(exporter.VerificationFailed, match="too few samples agree in bulk: none in a batch"):
        exporter.export(nn.Sequential(*layers), (3, 8, 8), tmp_path / "a", formats=["onnx"])
