"""The card of an exported model, for whoever is to use it: Markdown in plain words."""

from __future__ import annotations

from gam_ray.export.description import ModelDescription
from gam_ray.export.provenance import Provenance

# Channels → Pillow's mode, and what people call it.
_READ = {1: ("L", "grey"), 3: ("RGB", "RGB")}


def model_card(described: ModelDescription, provenance: Provenance) -> str:
    """The text of ``MODEL_CARD.md``."""
    source, target = described.source, described.target
    classes = f"{len(described.class_names)} classes: {', '.join(described.class_names)}"
    return f"""\
# {provenance.study or "A trial"}: {source} → {target}

A {described.network} for {described.problem} in {classes}.

It learned from labelled images of {source}, and was adapted to unlabelled images of {target}.

## How it was chosen

It is trial {provenance.trial}. {" ".join(provenance.choice)}

## How far to trust it

{_guard(provenance)}

{_scores(provenance)}

{_oracle(provenance)}

## What it takes and gives

{_interface(described)}

## How to use it

{_usage(described)}

## Limits

- It knows its {len(described.class_names)} classes alone, and gives one of them to everything.
- It was adapted to images like those of {target}. On others, those of {source} included, it may
  be worse than the network that it started from.
- Its probabilities are not calibrated: 0.9 does not mean right nine times in ten.
- The scores above are evidence, no proof, that it is right on the target. Before much depends on
  it, label a few target images and count.

## Where it comes from

{_origin(described, provenance)}
"""


def _guard(provenance: Provenance) -> str:
    if not provenance.causes:
        return "The collapse guard, which sees no target label, found nothing against it."
    causes = "\n".join(f"- {cause}" for cause in provenance.causes)
    return f"**It was left out of what may be chosen, so do not trust it:**\n\n{causes}"


def _scores(provenance: Provenance) -> str:
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in provenance.scores.items())
    return f"""\
Scores that need no target label, on held-out images; of all, higher is better:

| score | value |
|---|---|
{rows}"""


def _oracle(provenance: Provenance) -> str:
    if not provenance.oracle:
        return "How right it is on the target is not known: there were no target labels."
    used = "**These labels chose it**, as the study asked" if provenance.by_oracle else "Shown only"
    rows = "\n".join(
        f"| {name} | {100 * value:.1f} % |" for name, value in provenance.oracle.items()
    )
    return f"""\
What target labels say of it (the oracle: accuracy, or mean IoU and its parts). {used}:

| split | right |
|---|---|
{rows}"""


def _interface(described: ModelDescription) -> str:
    given, (height, width) = described.input, described.input.size
    sizes = (
        "Images of any size are stretched to that inside the model"
        if given.multiple is None
        else f"Other heights and widths will do from {2 * given.multiple} on, in steps of "
        f"{given.multiple}"
    )
    per = "pixel" if described.problem == "segmentation" else "image"
    return (
        f"`{given.name}`: uint8 [N, {given.channels}, H, W] in 0-255, {_READ[given.channels][1]}; "
        f"scaling is inside. For training, images were brought to {height}×{width} (height×width) "
        f"by {given.resize}, bilinear and antialiased. {sizes}. To get exactly what was measured, "
        "bring them to that size in the same way: `gam-ray predict` does.\n\n"
        f"`{described.output.name}`: float32, for each {per} a probability of each class."
    )


def _usage(described: ModelDescription) -> str:
    height, width = described.input.size
    mode = _READ[described.input.channels][0]
    batch = "pixels[None, None]" if mode == "L" else "pixels.transpose(2, 0, 1)[None]"
    return f"""\
```
gam-ray predict photos/ --model FOLDER
```

Without gam_ray, with onnxruntime, NumPy and Pillow:

```python
import numpy as np
import onnxruntime
from PIL import Image

image = Image.open("photo.png").convert("{mode}")
pixels = np.asarray(image.resize(({width}, {height}), Image.Resampling.BILINEAR))
model = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = model.run(None, {{"{described.input.name}": {batch}}})
```

`model.pt2` is the same for torch: `torch.export.load("model.pt2").module()(images)`."""


def _origin(described: ModelDescription, provenance: Provenance) -> str:
    differences = ", ".join(f"{name} {each:.1g}" for name, each in described.differences.items())
    versions = ", ".join(f"{name} {version}" for name, version in described.versions.items())
    return (
        f"Trial {described.trial}. The files were held against the network on "
        f"{described.checked_on}; the largest difference of a probability: {differences}.\n\n"
        f"Versions: {versions}.\n\nThe trial's whole configuration:\n\n"
        f"```json\n{provenance.config.model_dump_json(indent=2)}\n```"
    )
