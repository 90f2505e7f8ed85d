import os
from pathlib import Path

DATA = Path(os.environ.get("CXR_NOTEBOOK_DATA", "chest_xray"))  # has train, val and test
VALIDATION = os.environ.get("CXR_NOTEBOOK_VALIDATION", "patient")  # or "official", or "test"
EPOCHS = int(os.environ.get("CXR_NOTEBOOK_EPOCHS", "6"))  # of the perceptron, trained below
FILMS = Path(os.environ.get("CXR_NOTEBOOK_FILMS", "../examples/xrays"))  # the films to show
SEED = 1
# ====CELL====
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from IPython.display import SVG, Markdown, display
from sklearn.metrics import classification_report, log_loss

from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.charts import icon_arrays, performance
from batch_scorer.report.charts.standalone import make_standalone_svg
from batch_scorer.report.content.model_comparison import describe_ranking
from batch_scorer.report.content.reliability import make_icon_arrays
from batch_scorer.report.content.slides import PUBLISHED_RESULTS
from batch_scorer.report.content.text import format_estimate
from batch_scorer.system.process import quiet_import

with quiet_import():
    import keras

    from trainer import evaluate, run_folder
    from trainer.audit.audit import audit_dataset
    from trainer.audit.charts import draw_counts
    from trainer.audit.findings import list_findings
    from trainer.config import RECIPES, FitConfig
    from trainer.data.splits import VALIDATION_CHOICES, read_dataset_validated_by
    from trainer.model.architecture import draw_architecture
    from trainer.model.networks import SIZE_PX
    from trainer.saliency_figures import draw_augmentation, draw_examples, read_examples
    from trainer.train import fit


def show(svg: str) -> None:
    """Show a figure."""
    display(SVG(make_standalone_svg(svg)))


def say(text: str) -> None:
    """Show a sentence."""
    display(Markdown(text))


def bracket(estimate: classification.Estimate) -> str:
    """A figure with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


# ====CELL====
audit = audit_dataset(DATA)
parts = {part: [audit.count(part, label) for label in CLASSES] for part in audit.parts}
say(f"{audit.images:,} films of {audit.patients.patients:,} patient numbers.")
pd.DataFrame(parts, index=CLASSES).T
# ====CELL====
for fault in list_findings(audit):
    say(f"**{fault.title}.** {fault.text}")
# ====CELL====
show(draw_counts(audit.counts))
# ====CELL====
examples = read_examples(FILMS, per_class=6)
show(draw_examples(examples))
# ====CELL====
show(draw_augmentation(examples, "cnn", times=6))
# ====CELL====
dataset = read_dataset_validated_by(DATA, SIZE_PX, SEED, VALIDATION)
say(f"This run validates on {VALIDATION_CHOICES[VALIDATION].title}. {dataset.split_policy}")
if dataset.withheld:
    say(f"**Warning.** {dataset.withheld} Its figures flatter, and the model is not exported.")
pd.Series(dataset.counts(), name="films").to_frame()


# ====CELL====
def measure(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """Loss and accuracy of one part."""
    right = (probabilities >= threshold) == labels
    return {"loss": log_loss(labels, probabilities), "accuracy": right.mean()}


def show_answers(answers: dict[str, np.ndarray], threshold: float, title: str) -> None:
    """Loss and accuracy on train and test films; for the test films all that is usual."""
    found = {part: measure(films[part].labels, p, threshold) for part, p in answers.items()}
    display(pd.DataFrame(found).T.round(3))
    labels, probabilities = films["test"].labels, answers["test"]
    show(
        performance.draw_confusion(
            classification.confusion_matrix(labels, probabilities, threshold)
        )
    )
    flagged = (probabilities >= threshold).astype(int)
    print(classification_report(labels, flagged, target_names=CLASSES, digits=3))
    patients = films["test"].groups.tolist()
    judged = classification.compute_metrics(labels, probabilities, threshold, patients)
    curve = classification.roc_points(labels, probabilities)
    line = performance.RocCurve(title, curve, judged["recall"], judged["specificity"])
    show(performance.draw_roc_curves([line]))
    say(f"AUC {format_estimate(judged['auc'])}, from probabilities, with its interval by patient.")


films = {"train": dataset.train, "test": dataset.test}
# ====CELL====
show(draw_architecture("mlp"))
# ====CELL====
# %%capture
RUNS = Path(tempfile.mkdtemp(prefix="notebook-"))


def train_perceptron(choice: str) -> object:
    """Train the perceptron with validation films chosen in one way; its card."""
    config = FitConfig("mlp", EPOCHS, RECIPES["mlp"].batch_size, SEED, "tensorflow", "none")
    chosen = (
        dataset if choice == VALIDATION else read_dataset_validated_by(DATA, SIZE_PX, SEED, choice)
    )
    return fit(config, chosen, RUNS / choice, open_test=True)


cards = {VALIDATION: train_perceptron(VALIDATION)}
# ====CELL====
card = cards[VALIDATION]
show(performance.draw_training_curves([card]))
# ====CELL====
network = keras.models.load_model(RUNS / VALIDATION / run_folder.MODEL_FILE, compile=False)
answers = {
    part: card.calibration.apply(evaluate.predict_outputs(network, shown).logits)
    for part, shown in films.items()
}
show_answers(answers, card.threshold.value, card.title)
# ====CELL====
bundled = {name: Classifier.load(name, "cpu", batch_size=32) for name in list_bundled_models()}


def ask_bundled(name: str) -> dict[str, np.ndarray]:
    """What a bundled model says of train and test films."""
    return {part: bundled[name].predict(shown.pixels).probability for part, shown in films.items()}


show(draw_architecture("cnn"))
# ====CELL====
show(performance.draw_training_curves([bundled["cnn"].card]))
# ====CELL====
cnn = bundled["cnn"].card
show_answers(ask_bundled("cnn"), cnn.threshold.value, cnn.title)
# ====CELL====
show(draw_architecture("vgg16"))
# ====CELL====
show(performance.draw_training_curves([bundled["vgg16"].card]))
# ====CELL====
vgg16 = bundled["vgg16"].card
say(f"First weights: {vgg16.training.initial_weights}.")
show_answers(ask_bundled("vgg16"), vgg16.threshold.value, vgg16.title)
# ====CELL====
# %%capture
for choice in VALIDATION_CHOICES:
    if choice not in cards:
        cards[choice] = train_perceptron(choice)
# ====CELL====
rows = {}
for choice, about in VALIDATION_CHOICES.items():
    there, test = (cards[choice].references[split] for split in ("validation", "test"))
    rows[about.title] = {
        "films": there.images,
        "accuracy there": bracket(there.metrics["accuracy"]),
        "accuracy on the test films": bracket(test.metrics["accuracy"]),
        "epoch kept": cards[choice].training.best_epoch,
        "threshold": f"{cards[choice].threshold.value:.3f}",
    }
display(pd.DataFrame(rows).T)

accuracy = {
    choice: cards[choice].references["test"].metrics["accuracy"].value
    for choice in VALIDATION_CHOICES
}
flattery = 100 * (accuracy["test"] - accuracy["patient"])
learnt = {choice: cards[choice].training.images for choice in VALIDATION_CHOICES}
sizes = {
    choice: sum(learnt[choice][f"train {label}"] for label in CLASSES)
    for choice in VALIDATION_CHOICES
}
say(
    f"Chosen by patient, the network is right on {accuracy['patient']:.1%} of the test films. "
    f"Chosen on the test films, it seems right on {accuracy['test']:.1%} of the very same films: "
    f"**{flattery:+.1f} points**. No test film was learnt from; stopping, calibration and "
    f"threshold were fitted to them. (It also learnt from {sizes['test']:,} films instead of "
    f"{sizes['patient']:,}, since nothing was kept back.)"
)
few = cards["official"].references["validation"]
say(
    f"The official val part has {few.images} films and says "
    f"{format_estimate(few.metrics['accuracy'])}: a figure that fits nearly any network."
)
# ====CELL====
COLUMNS = ("accuracy", "precision", "recall", "specificity", "f1", "auc")

finished = [model.card for model in bundled.values()]
summary = {
    shown.title: [bracket(shown.reference.metrics[name]) for name in COLUMNS] for shown in finished
}
pd.DataFrame(summary, index=COLUMNS).T
# ====CELL====
pd.DataFrame(PUBLISHED_RESULTS).T.fillna("")
# ====CELL====
show(performance.draw_roc(finished))
# ====CELL====
if finished[0].comparison:
    say(describe_ranking(finished[0].comparison, {shown.name: shown.title for shown in finished}))
# ====CELL====
best = finished[0]
people = make_icon_arrays(best)
show(
    icon_arrays.draw_performance_icons(
        icon_arrays.IconArray(people.detected_title, people.found, performance.BLUE),
        icon_arrays.IconArray(people.false_alarms_title, people.false_alarms, performance.AMBER),
    )
)
validated, tested = (
    best.references[part].metrics["specificity"] for part in ("validation", "test")
)
say(
    f"{best.title} leaves normal films alone with a specificity of {format_estimate(validated)} on "
    f"validation films, and of {format_estimate(tested)} on the test films. The gap says how far the "
    "test films are from those that it knows."
)
