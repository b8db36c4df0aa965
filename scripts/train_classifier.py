"""Trains the classifier that a data set's scores look through, and puts it into weights/.

    python scripts/train_classifier.py --dataset=mnist

Only the train split is trained on; the accuracy in weights/index.json is that of the test split,
with the weights as they are stored: float16, under 1 MB.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import traverse_util
from safetensors.numpy import save
from tqdm import tqdm

import augment
import cli
import data
import features
from configs import default


class Recipe(NamedTuple):
    """How one data set's classifier is trained; augmentations as in augment.py."""

    widths: tuple[int, ...]
    epochs: int
    flip: float
    crop: int


RECIPES = {
    "digits": Recipe((32, 64, 128), epochs=30, flip=0.0, crop=1),
    "mnist": Recipe((16, 32, 64), epochs=6, flip=0.0, crop=2),
    "fashion_mnist": Recipe((24, 48, 96), epochs=8, flip=0.5, crop=1),
    "cifar10": Recipe((32, 64, 128), epochs=11, flip=0.5, crop=3),
}
BATCH_SIZE = 64
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4

DATASET = flags.DEFINE_enum("dataset", "digits", list(RECIPES), "What is to be classified.")
SEED = flags.DEFINE_integer("seed", 0, "Of the weights, the order of the images, augmentations.")


def main(argv: list[str]) -> None:
    del argv
    config = default.get_config()
    config.dataset = DATASET.value
    train, held_out = data.load(config), data.load_held_out(config)
    assert held_out is not None
    assert train.num_classes is not None
    recipe = RECIPES[config.dataset]
    network = features.Classifier(train.num_classes, recipe.widths)
    variables = fit(network, recipe, train, jax.random.key(SEED.value))
    stored = jax.tree.map(lambda x: np.asarray(x, np.float16), variables)
    accuracy = evaluate(network, stored, held_out)
    content = save(traverse_util.flatten_dict(stored, sep="/"))
    file = features.WEIGHTS / f"{config.dataset}.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    index = file.with_name("index.json")
    entries = json.loads(index.read_text()) if index.exists() else {}
    entries[config.dataset] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "shape": list(train.spec.shape),
        "num_classes": train.num_classes,
        "widths": list(recipe.widths),
        "test_accuracy": round(accuracy, 4),
        "seed": SEED.value,
        "command": f"python scripts/train_classifier.py --dataset={config.dataset} "
        f"--seed={SEED.value}",
        "jax": jax.__version__,
    }
    index.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
    print(f"{file}: {len(content):,} bytes, accuracy on the test split {accuracy:.2%}")


def fit(network: nn.Module, recipe: Recipe, train: data.Dataset, key: jax.Array) -> Any:
    """The variables after stochastic gradient with momentum, one cycle of the learning rate."""
    num_steps = recipe.epochs * len(train.images) // BATCH_SIZE
    schedule = optax.cosine_onecycle_schedule(num_steps, LEARNING_RATE, pct_start=0.2)
    optimizer = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(schedule, MOMENTUM, nesterov=True)
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Any, opt_state: Any, batch: Any, key: jax.Array) -> Any:
        flip_key, crop_key = jax.random.split(key)
        images = augment.flip(flip_key, batch["images"], recipe.flip)
        images = augment.crop(crop_key, images, recipe.crop)

        def loss(params: Any) -> Any:
            (_, logits), changed = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
            return losses.mean(), changed

        grads, changed = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **changed}, opt_state

    init_key, order_key, key = jax.random.split(key, 3)
    variables = network.init(init_key, train.images[:1], train=True)
    opt_state = optimizer.init(variables["params"])
    examples = {"images": jnp.asarray(train.images), "labels": jnp.asarray(train.labels)}
    indices = data.make_indices(order_key, len(train.images), (BATCH_SIZE,))
    for i in tqdm(range(num_steps), mininterval=10):
        batch = data.take(examples, jnp.asarray(indices(i)))
        variables, opt_state = step(variables, opt_state, batch, jax.random.fold_in(key, i))
    return variables


def evaluate(network: nn.Module, variables: Any, held_out: data.Dataset) -> float:
    """The share of images that are classified right."""
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    apply: Any = jax.jit(lambda images: network.apply(variables, images, train=False))
    batches = np.split(held_out.images, range(250, len(held_out.images), 250))
    logits = np.concatenate([apply(batch)[1] for batch in batches])
    return float(np.mean(logits.argmax(axis=1) == held_out.labels))


if __name__ == "__main__":
    cli.run(main)
