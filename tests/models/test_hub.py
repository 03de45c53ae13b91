"""Image classifiers of transformers, by name and as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import withstand as ws
from withstand.cli import main
from withstand.types import ModelError, RunFolderError

transformers = pytest.importorskip("transformers")
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.4, 0.2],
    "size": {"height": 8, "width": 8},
}
NAMES = {0: "cat", 1: "dog", 2: "bird"}


def vit(**settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, **{"id2label": NAMES, **settings})
    return transformers.ViTForImageClassification(config)


def saved(model: Any, folder: Path, processor: dict[str, Any] | None) -> str:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hub:{folder}"


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier of colour images of 8 x 8 pixels into 3 classes."""
    return saved(vit(), tmp_path_factory.mktemp("hub") / "vit", PROCESSOR)


def of_data(shape: tuple[int, int, int], classes: tuple[str, ...] = ("cat", "dog", "bird")) -> Any:
    return ws.data.from_arrays(
        (torch.rand(6, *shape), torch.arange(6) % len(classes)),
        (torch.rand(6, *shape), torch.arange(6) % len(classes)),
        name="pets",
        class_names=classes,
    )


def test_hub_model_is_the_classifier_behind_its_own_normalisation(name: str) -> None:
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    model = ws.models.create(name, input_shape=(3, 8, 8), num_classes=3).eval()
    assert [key for key, _ in model.named_children()] == ["normalize", "network"]
    torch.testing.assert_close(model(images), vit().eval()((images - mean) / std).logits)
    plain = ws.models.create(name, input_shape=(3, 8, 8), num_classes=3, normalize=False).eval()
    torch.testing.assert_close(plain(images), vit().eval()(images).logits)


def test_hub_model_resizes_and_colours_other_images_and_says_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = of_data((1, 4, 4))
    model = ws.models.create(name, dataset=dataset.info).eval()
    images = dataset.test.images
    alike = nn.functional.interpolate(images, (8, 8), mode="bilinear").expand(-1, 3, -1, -1)
    expected = ws.models.create(name, input_shape=(3, 8, 8), num_classes=3).eval()(alike)
    torch.testing.assert_close(model(images), expected)
    assert "4 x 4 pixels are resized to 8 x 8" in caplog.text
    assert "3 equal channels" in caplog.text
    ws.models.check(model, dataset.info)


def test_hub_model_says_that_classes_are_in_another_order(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ws.models.create(name, dataset=of_data((3, 8, 8), ("dog", "Cat", "bird")).info)
    assert "another order, cat, dog, bird" in caplog.text


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, [0.5], [0.25]),
        (
            {"do_normalize": True, "image_mean": [0.5], "image_std": [0.5], "rescale_factor": 1 / 127.5},
            [0.25],
            [0.25],
        ),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, [0.5], [0.5]),
        ({"do_normalize": False, "image_mean": [0.5], "image_std": [0.5]}, None, None),
        (
            {"image_processor_type": "MobileViTImageProcessor", "image_mean": [0.5], "image_std": [0.5]},
            None,
            None,
        ),
    ],
)
def test_hub_normalisation_is_that_of_images_in_0_1(
    processor: dict[str, Any], mean: list[float] | None, std: list[float] | None, tmp_path: Path
) -> None:
    model: Any = ws.models.create(
        saved(vit(num_channels=1), tmp_path, {"size": 8, **processor}), input_shape=(1, 8, 8), num_classes=3
    )
    if mean is None:
        assert not hasattr(model, "normalize")
    else:
        assert model.normalize.mean.tolist() == pytest.approx(mean)
        assert model.normalize.std.tolist() == pytest.approx(std)


def test_hub_model_reverses_channels_where_its_processor_does(tmp_path: Path) -> None:
    processor = {"do_flip_channel_order": True, "do_normalize": False, "size": {"shortest_edge": 8}}
    model = ws.models.create(saved(vit(), tmp_path, processor), input_shape=(3, 8, 8), num_classes=3).eval()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(images), vit().eval()(images.flip(1)).logits)


def test_hub_head_for_other_classes_is_new_where_that_is_asked(name: str) -> None:
    info = of_data((3, 8, 8), tuple("abcde")).info
    with pytest.raises(ModelError, match=r"3 classes apart, but the data have 5.*new_head"):
        ws.models.create(name, dataset=info)
    torch.manual_seed(0)
    model: Any = ws.models.create(name, dataset=info, new_head=True)
    assert model.network.model.classifier.weight.shape == (5, 8)
    kept = model.network.model.vit.embeddings.position_embeddings
    torch.testing.assert_close(kept, vit().vit.embeddings.position_embeddings)
    torch.manual_seed(0)
    again = ws.models.create(name, dataset=info, new_head=True)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_hub_model_with_random_weights_is_built_for_the_data(name: str) -> None:
    info = of_data((1, 16, 16), tuple("ab")).info
    model: Any = ws.models.create(name, dataset=info, pretrained=False, image_size=16)
    assert [key for key, _ in model.named_children()] == ["normalize", "network"]
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"new_head": True}, "leave new_head out"),
        ({"new_head": True, "pretrained": False}, "leave new_head out"),
        ({"head": 3}, "did you mean 'new_head'"),
        ({"image_size": [8]}, r"\[height, width\]"),
    ],
)
def test_hub_model_refuses_options(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        ws.models.create(name, input_shape=(3, 8, 8), num_classes=3, **options)


def test_hub_model_refuses_what_is_no_image_classifier(tmp_path: Path, name: str) -> None:
    def refused(config: dict[str, Any] | None, match: str) -> None:
        folder = tmp_path / "model"
        if config is not None:
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=match):
            ws.models.create(f"hub:{folder}", input_shape=(3, 8, 8), num_classes=3)

    refused(None, "there is no folder")
    refused({"model_type": "bert"}, "'bert' is no image classifier")
    refused({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "which is not run")
    bare = saved(vit().vit, tmp_path / "bare", PROCESSOR)
    with pytest.raises(ModelError, match=r"no classifier.bias.*new_head"):
        ws.models.create(bare, input_shape=(3, 8, 8), num_classes=3)
    blind = saved(vit(), tmp_path / "blind", None)
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        ws.models.create(blind, input_shape=(3, 8, 8), num_classes=3)
    with pytest.raises(ModelError, match="3 channels, but the data have 2"):
        ws.models.create(name, input_shape=(2, 8, 8), num_classes=3)


def test_hub_model_of_a_recipe_is_trained_and_built_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "--model.options={new_head: true, image_size: 8}",
        "--data.train_size=64",
        "--training.epochs=1",
    ]
    monkeypatch.chdir(Path(name.partition(":")[2]).parent)
    main(["train", "digits-adversarial", "--model.name=hub:./vit", *options, f"--out={tmp_path / 'run'}"])
    spec = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (spec["name"], spec["options"]["new_head"]) == ("hub:./vit", True)
    model = ws.models.create(spec["name"], dataset="digits", normalize=spec["normalize"], **spec["options"])
    ws.models.load_weights(model, tmp_path / "run" / "model.safetensors")


def test_hub_model_that_fit_trained_is_loaded_from_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(name.partition(":")[2]).parent)
    images, labels = torch.rand(24, 3, 8, 8), torch.arange(24) % 3
    info = of_data((3, 8, 8)).info
    model = ws.models.create("hub:./vit", dataset=info, image_size=8)
    data = ws.data.from_arrays((images, labels), (images, labels), class_names=info.class_names)
    ws.fit(model, data, settings=ws.training.TrainingSettings(epochs=1, batch_size=8), out=tmp_path / "run")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    loaded = ws.load(tmp_path / "run")
    ws.models.load_weights(model, tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))


ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "vit": vit,
    "convnext": lambda **k: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], patch_size=2, num_stages=2, **k)
    ),
}


@pytest.mark.filterwarnings("ignore:The weights of torch's own layers:UserWarning")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_transformers_model_is_taken_as_it_is_everywhere(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[kind](num_channels=1, id2label=NAMES)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    objective = (
        ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.1, num_steps=1))
        + ws.objectives.Certified(norm=float("inf"), epsilon=0.01, domain="box")
        + ws.objectives.GaussianExpectation(noise_std=0.1)
        + ws.penalties.InputGradient()
        + ws.penalties.SpectralNorm()
    )
    for _ in range(2):
        objective(model, images, labels).loss.backward()
    assert sum("SDPBackend.MATH" in record.message for record in caplog.records) == (kind == "vit")
    assert all(weight.grad is not None for weight in model.parameters())
    proven = ws.certify(model, images, labels, norm=2, epsilon=0.0)
    correct = model.eval()(images).logits.argmax(dim=1) == labels
    assert torch.equal(proven.margin > 0, correct)


@pytest.mark.parametrize(
    ("options", "classes"),
    [({}, ("cat", "dog", "bird")), ({"new_head": True}, ("a", "b")), ({"pretrained": False}, ("a", "b"))],
)
def test_run_of_hub_model_loads_without_the_folder_that_its_name_leads_to(
    options: dict[str, Any], classes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(vit(), tmp_path / "vit", PROCESSOR)
    monkeypatch.chdir(tmp_path)
    dataset = of_data((3, 8, 8) if "pretrained" in options else (1, 4, 4), classes)
    model = ws.models.create("hub:./vit", dataset=dataset.info, **options)
    ws.fit(model, dataset, settings=ws.training.TrainingSettings(epochs=1), out="run")
    shutil.rmtree("vit")
    shutil.move("run", tmp_path / "elsewhere" / "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = dataset.test.images
    torch.testing.assert_close(ws.load("run")(images), model.eval()(images))  # one epoch is the best one
    (tmp_path / "elsewhere" / "run" / "source" / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"config\.json is gone, or not as it was"):
        ws.load("run")
