"""The card of a bundle, as Markdown: intended use, input, training data and metrics of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covseg_ray.segmentation.network.decision import Rule

if TYPE_CHECKING:
    from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec

_TEXT = """\
# {spec.architecture} with {spec.encoder}: {classes} on chest X-rays

Model `{model_id}`, made {spec.created:%Y-%m-%d} by covseg-ray {spec.package_version}.

**Not a medical device.** For research only: not for diagnosis, triage or treatment. A mask is a model's guess, and its
absence is no sign of health.

## Intended use
Segmentation of COVID-19 infection on frontal chest radiographs, for research on groups of films. Expect less than the
figures below on other hospitals, devices, projections and ages than those it was trained on. It answers for any
picture, a chest film or not.

## How a film is read
Laid into {size} x {size} pixels ({spec.resize}), scaled by its own minimum and maximum, normalised by mean
{spec.normalisation.mean} and standard deviation {spec.normalisation.std}. {decision}

## Trained on
{trained_on}

## Reached
{metrics}
## Use
```
covseg-ray model info BUNDLE
covseg-ray evaluate BUNDLE DATASET --split val
covseg-ray segment SOURCE OUT --model BUNDLE
```
"""


def card(bundle: Bundle) -> str:
    """The card's text."""
    spec = bundle.spec
    return _TEXT.format(
        spec=spec,
        size=spec.input_size,
        classes=", ".join(spec.classes[1:]),
        model_id=bundle.model_id,
        decision=in_words(spec),
        trained_on=_trained_on(spec),
        metrics=_metrics(spec),
    )


def in_words(spec: BundleSpec) -> str:
    """How a pixel gets its class."""
    rule = spec.decision
    if not isinstance(rule, Rule):
        return "Each pixel gets its most probable class."
    mirrored = ", the mean over the film and its mirror image," if rule.flip else ""
    small = f" Regions of fewer than {rule.smallest_region} pixels are left out." if rule.smallest_region else ""
    return f"A pixel is infection where its probability{mirrored} is at least {rule.threshold:.3f}.{small}"


def _trained_on(spec: BundleSpec) -> str:
    seen = spec.trained_on
    if seen is None:
        return "Not recorded."
    labels = ", ".join(seen.labels) or "all labels"
    of = f"of the split `{seen.split}` of `{seen.dataset}`, digest `{seen.digest}`."
    teachers = ", ".join(f"`{model_id}`" for model_id in seen.teachers)
    learned = f"\nIt learned their masks and the probabilities that its teachers give: {teachers}." if teachers else ""
    return f"{seen.images:,} images ({labels}) {of}{learned}"


def _metrics(spec: BundleSpec) -> str:
    if not spec.metrics:
        return "Not measured.\n"
    rows = [f"| `{name}` | {e.value:.4f} | {e.low:.4f} to {e.high:.4f} |" for name, e in spec.metrics.items()]
    return "\n".join(["| metric | value | 95 % interval |", "| --- | --- | --- |", *rows, "", spec.metrics_how, ""])
