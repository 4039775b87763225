"""What a ticket repository says of itself: the summary in a terminal, and the model card.

Only what `dilt_config.json` records as measured is printed. A card consists of generated sections, each between two
comments, and of whatever a person wrote around them: making the card anew replaces the sections and leaves the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.masks.packed import PackedMask, compose_packed
from dilt_hf.tickets.format import PICTURE_FILE, TicketConfig
from dilt_hf.utils.errors import TicketError
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import LEAST_SEEDS
from dilt_hf.utils.text import markdown_text, visible

TAGS = ["dilt", "lottery-ticket", "pruning", "sparsity"]
MOST_LISTED = 12  # partitions, or classes of one, that a table or a list names
_HERE = Path(__file__).parent
_PLACES = (_HERE / "card_template.md", _HERE.parents[1] / "model_cards/template.md")  # of a wheel, of a checkout
TEMPLATE = next(path for path in _PLACES if path.exists())
_MARKER = re.compile(r"<!-- (/?)dilt_hf: (\w+) -->\s*")
_METADATA = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
MEASURED = ("model-index", "metrics")  # metadata that must not outlive what it says
MOST_CARD_BYTES = 2**20


def make_card(
    config: TicketConfig,
    partitions: Sequence[PackedMask],
    repo_id: str,
    *,
    existing: str | None = None,
    own_code: bool = False,
    published: str | None = None,
) -> str:
    """Write the model card of a ticket repository, as Markdown with YAML metadata.

    Args:
        config: what the repository says of itself.
        repo_id: "user/name", for the examples.
        existing: the card that is there. What a person wrote in it stays: everything outside the generated sections,
            and metadata that is not generated; a generated section that was deleted stays deleted.
        own_code: whether the architecture's code comes with the checkpoint.
        published: the card on the Hub. Of the two cards, the one that a person has edited is continued.

    Raises:
        TicketError: when the configuration, or the metadata of a card, is not of the expected form, or when a person
            has edited both cards in different ways.
    """
    body = _template().render(_facts(config, partitions, repo_id) | {"own_code": own_code}) + "\n"
    generated = _metadata(config, repo_id)
    plain = _own_words(body)
    both = [_split(card) for card in (existing, published) if card is not None]
    edited = {words: card for card in both if (words := _own_words(card[1])) != plain}
    if len(edited) > 1:
        raise TicketError(
            f"the model card here and the one of {repo_id} on the Hub were both edited, and differ outside the "
            "generated sections; make the text of one that of the other, and push again."
        )
    earlier, written = next(iter(edited.values()), both[-1] if both else ({}, ""))
    sections = _sections(written)
    if sections:
        earlier = {key: value for key, value in earlier.items() if key not in MEASURED}
        body = _renewed(written, sections, _sections(body), body)
    elif written.strip():
        body = f"{written.strip()}\n\n{body}"
    merged = earlier | generated
    merged["tags"] = list(dict.fromkeys([*(earlier.get("tags") or []), *TAGS]))
    return f"---\n{_yaml(merged)}---\n\n{body.lstrip()}"


Span = tuple[int, int]  # of lines, from the opening marker to behind the closing one


def _sections(text: str) -> dict[str, list[Span]]:
    """Find the generated sections: between two markers, each alone on its line and outside a person's code."""
    found: dict[str, list[Span]] = {}
    start, name, in_code = 0, "", False
    for number, line in enumerate(text.splitlines()):
        marker = _MARKER.fullmatch(line)
        if marker is None:
            in_code ^= not name and line.lstrip().startswith(("```", "~~~"))
        elif not marker[1] and not in_code:
            start, name = number, marker[2]
        elif marker[1] and marker[2] == name:
            found.setdefault(name, []).append((start, number + 1))
            name = ""
    return found


def _renewed(text: str, spans: Mapping[str, list[Span]], new_spans: Mapping[str, list[Span]], new: str) -> str:
    """Replace every generated section of `text` by the one in `new`; a section that `new` lacks stays."""
    lines, fresh = text.splitlines(), new.splitlines()
    for name, (start, end) in sorted(((n, s) for n, each in spans.items() for s in each), key=lambda x: -x[1][0]):
        if name in new_spans:
            first, last = new_spans[name][0]
            lines[start:end] = fresh[first:last]
    return "\n".join(lines) + "\n"


def _own_words(text: str) -> str:
    """Return the text outside the generated sections."""
    lines = text.splitlines()
    for start, end in sorted((span for each in _sections(text).values() for span in each), reverse=True):
        del lines[start:end]
    return " ".join(" ".join(lines).split())


@functools.cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))


def summary_table(config: TicketConfig, partitions: Sequence[PackedMask]) -> str:
    """Tabulate the tickets: weights kept, density, and where measured, the test accuracy of the trained ticket and of
    its layer-shuffled control; below it, the overlap of the masks, compared with chance.
    """
    count = len(partitions)
    listed = range(min(count, MOST_LISTED))
    names = ["core", "union", *(f"{kind}_{k}" for kind in ("partition", "specialist") for k in listed)]
    scores = {
        (metric.ticket, metric.control): f"{100 * metric.scores.accuracy:.1f}"
        for metric in config.metrics
        if metric.matched is None
    }
    body = []
    for name in names:
        mask = compose_packed(name, partitions)
        measured = [scores.get((name, control), "") for control in ("", "shuffled")] if scores else []
        body.append([name, f"{mask.count_kept():,}", f"{100 * mask.density():.2f}", *measured])
    head = ["ticket", "weights", "density %", *(["accuracy %", "shuffled %"] if scores else [])]
    left_out = f"({count - MOST_LISTED} more partitions)\n\n" if count > MOST_LISTED else ""
    return f"{markdown_table(head, body)}\n\n{left_out}{_overlap(config, partitions)}"


def _overlap(config: TicketConfig, partitions: Sequence[PackedMask]) -> str:
    overlap = dataclasses.asdict(config.overlap) if config.overlap else mean_overlap(partitions[:MOST_LISTED])[""]
    found, chance = ("–" if overlap[key] is None else f"{100 * overlap[key]:.1f} %" for key in ("jaccard", "chance"))
    return f"Overlap (Jaccard) of the partition masks: {found}; by chance at their densities: {chance}."


def _facts(config: TicketConfig, partitions: Sequence[PackedMask], repo_id: str) -> dict[str, Any]:
    """Collect the values that the template asks for."""
    materialised, comparison = config.materialised, config.comparison
    return {
        "title": f"{repo_id.split('/')[-1]}: disentangled lottery tickets",
        "repo": repo_id,
        "n": len(partitions),
        "rewind": config.theta0.rewind_step or 0,
        "theta0_is": "a pretrained checkpoint" if config.is_pretrained else "which is not trained to the end",
        "trained": bool(materialised),
        "dense": next((name for name, facts in materialised.items() if facts.storage == "dense"), None),
        "results": _results(config, partitions),
        "partitions": _partitions(config),
        "found": _found(config),
        "few_seeds": (comparison.seeds if comparison else 1) < LEAST_SEEDS,
        "image": PICTURE_FILE if comparison else None,
    }


def _architecture(config: TicketConfig) -> str:
    model = config.settings_of("model")
    return str(model.get("model_name_or_path") or model.get("architecture") or "")


def _results(config: TicketConfig, partitions: Sequence[PackedMask]) -> str:
    parts = [summary_table(config, partitions)]
    comparison = config.comparison
    if comparison:
        intro = "The table above is of this repository's seed." if comparison.seeds > 1 else "There was only this seed."
        parts += [intro, f"All networks that were trained, over {comparison.seeds} seed(s):", comparison.table]
        parts += [comparison.caption, "\n".join(f"- {sentence}" for sentence in comparison.sentences)]
    elif not config.metrics:
        parts.append("No accuracy was measured.")
    if config.materialised:
        rows = [
            [name, facts.storage, f"{facts.bytes / 1e6:.3g}", f"{facts.dense_bytes / 1e6:.3g}"]
            for name, facts in config.materialised.items()
        ]
        parts += ["Tickets with trained weights:", markdown_table(["ticket", "storage", "MB", "MB if dense"], rows)]
    return _no_html("\n\n".join(parts))


def _partitions(config: TicketConfig) -> str:
    lines = []
    for k, part in enumerate(config.partitions[: 10 * MOST_LISTED]):
        names = [markdown_text(name) for name in part.class_names]
        more = f", … ({len(names)} classes)" if len(names) > 10 * MOST_LISTED else ""
        values = f" (rows with {', '.join(map(markdown_text, map(str, part.values)))})" if part.values else ""
        lines.append(f"- `partition_{k}`{values}: {', '.join(names[: 10 * MOST_LISTED])}{more}")
    return "\n".join(lines) or "Their classes were not recorded."


def _plain(text: object) -> str:
    """Reduce text to one line that is no HTML, and so cannot end a generated section."""
    return " ".join(_no_html(text).split())


def _no_html(text: object) -> str:
    return visible(str(text)).replace("<", "&lt;").replace(">", "&gt;")


def _found(config: TicketConfig) -> str:
    dataset, pruning, training = config.dataset, config.settings_of("pruning"), config.settings_of("training")
    lines = [f"- **Method**: {config.method or 'not recorded'}"]
    if _architecture(config):
        weights = config.settings_of("model").get("weights_file")
        filled = f" with the weights of `{weights}`" if weights else ""
        lines.append(f"- **Network**: `{_architecture(config)}`{filled}, seed {config.theta0.seed}")
    if dataset:
        lines.append(
            f"- **Data**: {dataset.source}, images of {dataset.image_size} px, fingerprint `{dataset.fingerprint[:16]}`"
        )
    densities = next(iter(config.round_densities.values()), None)
    if densities:
        each = ", ".join(f"{100 * density:.1f} %" for density in densities)
        lines.append(f"- **Rounds** of train, prune, rewind to step {pruning.get('rewind_step', 0)}: density {each}")
    if training:
        keys = (
            "num_train_epochs",
            "global_train_batch_size",
            "optim",
            "learning_rate",
            "weight_decay",
            "lr_scheduler_type",
        )
        lines.append("- **Training**: " + ", ".join(f"{key} {training[key]}" for key in keys if key in training))
    costs = [metric.search_cost for metric in config.metrics if metric.ticket == "core" and not metric.control]
    if costs:
        lines.append(
            f"- **Cost** of finding the core: {costs[0].steps:,} steps, {costs[0].dense_flops / 1e12:.3g} TFLOP "
            f"(dense-equivalent), {_duration(costs[0].seconds)}"
        )
    if config.versions:
        lines.append("- **Versions**: " + ", ".join(f"{name} {version}" for name, version in config.versions.items()))
    return "\n".join(map(_plain, lines))


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} seconds" if seconds < 120 else f"{seconds / 60:.3g} minutes"


def _metadata(config: TicketConfig, repo_id: str) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = config.dataset
    on_hub = dataset.name if dataset and dataset.name != "digits" else None
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=on_hub or "other",
            dataset_name=dataset.source if dataset else "not recorded",
            metric_type="accuracy",
            metric_value=round(100 * metric.scores.accuracy, 2),
            metric_name=f"Test accuracy (%) of the trained {metric.ticket} ticket",
        )
        for metric in config.metrics
        if metric.ticket in ("core", "union") and not metric.control and metric.matched is None
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=config.theta0.base_model,
        datasets=[on_hub] if on_hub else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results or None,
        metrics=["accuracy"] if results else None,
    )
    return data.to_dict()


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into metadata and text."""
    import yaml

    if len(card) > MOST_CARD_BYTES:
        raise TicketError(f"the model card is longer than {MOST_CARD_BYTES} characters; shorten it.")
    match = _METADATA.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.safe_load(match[1]) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TicketError(f"the metadata of the model card is not YAML ({error}); correct it.") from error
    tags = metadata.get("tags") or [] if isinstance(metadata, dict) else None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TicketError("the metadata of the model card is not a table of YAML; correct it.")
    return metadata, card[match.end() :]


def _yaml(metadata: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
