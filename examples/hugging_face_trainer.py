"""Adversarial training of a transformer by Hugging Face's Trainer, on images that a processor has normalised.

Run it, with withstand[loops] installed: python examples/hugging_face_trainer.py
"""

import transformers

import withstand as ws


def main() -> None:
    """Trains, and measures test images as they are and under attack."""
    transformers.set_seed(0)
    data = ws.data.load("digits")
    normalize = ws.models.Normalize([0.5], [0.5])  # processor.image_mean, processor.image_std
    pixels = normalize(ws.data.to_unit_range(data.train.images))
    train = [{"pixel_values": x, "labels": y} for x, y in zip(pixels, data.train.labels, strict=True)]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **sizes)
    model = transformers.ViTForImageClassification(config)  # or from_pretrained(…)
    attack = ws.attacks.PGD(epsilon=ws.schedules.Linear(start=0.0, end=0.05, epochs=5), num_steps=2)
    how = {"num_train_epochs": 8, "per_device_train_batch_size": 64, "learning_rate": 3e-3}
    seen = {"logging_strategy": "epoch", "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    trainer = ws.integrations.hugging_face.RobustTrainer(
        model,
        transformers.TrainingArguments(**how, **seen),
        train_dataset=train,
        objective=ws.objectives.Adversarial(attack),
        normalize=normalize,
    )
    trainer.train()
    attacks = ws.meters.Attacks([ws.attacks.PGD(num_steps=10)], epsilons=[0.02, 0.05])
    table = ws.evaluate(trainer.on_images(), data, [attacks]).table
    print(table[["measure", "level", "value"]].head(3).to_string(index=False))


if __name__ == "__main__":
    main()
