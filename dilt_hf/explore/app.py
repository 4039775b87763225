"""The explorer in a browser: the page, and what happens on it. Nothing on it asks any other machine for anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from dilt_hf.explore.chart import draw_densities
from dilt_hf.explore.images import example_images
from dilt_hf.explore.markup import density_chart, density_table, facts_list, headline, note, problem
from dilt_hf.explore.networks import Networks
from dilt_hf.explore.views import TRAINED, canonical, compared_names, describe, network_order, view_ticket, weights_note
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DiltError, MaskError

if TYPE_CHECKING:
    from PIL.Image import Image

STYLE = Path(__file__).with_name("style.css")
FIRST = "core"  # the ticket shown at the start
LONGEST = 200  # characters of a composition
LARGEST = "20mb"  # of an image's file
MOST_PIXELS = 16_000_000  # of an image, in which a small file may hold any number
ABOUT = "Subnetworks of one network, found by pruning it on disjoint classes from one start, θ0."
ABOUT_TABLE = (
    "Density is the kept fraction of the prunable weights. Accuracy, where it was measured, is the trained ticket's on "
    "the test set; *shuffled* is that of as many weights in every layer at shuffled positions. Both are of this "
    "repository's seed alone."
)
ABOUT_IMAGE = (
    "The five most probable classes by each ticket. One image shows what a ticket does, not how good it is: that is "
    "the accuracy above, where it was measured."
)


def make_app(tickets: Tickets) -> gr.Blocks:
    """Build the page for the tickets of one repository; `launch` serves it with its looks.

    Raises:
        DiltError: when the repository is damaged.

    Example:
        >>> launch(make_app(Tickets.from_pretrained("runs/digits/tickets/seed_0")))
    """
    explorer = _Explorer(tickets)
    with gr.Blocks(title=f"Tickets of {tickets.place}", analytics_enabled=False) as app:
        gr.Markdown(f"# Ticket explorer\n{ABOUT}")
        with gr.Row():
            with gr.Column(min_width=320):
                gr.HTML(facts_list(describe(tickets, explorer.theta0)))
            with gr.Column(min_width=320):
                gr.Markdown(f"{tickets.summary()}\n\n{ABOUT_TABLE}", elem_classes="summary")
        chosen = _ticket_section(explorer)
        _image_section(explorer, chosen)
    return app


def launch(app: gr.Blocks, **settings: Any) -> Any:
    """Serve the page, with its looks and without telemetry; `settings` are those of `gradio.Blocks.launch`."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    quiet = {"quiet": True, "share": False, "ssr_mode": False, "footer_links": [], "max_file_size": LARGEST}
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow refuses twice as many
    return app.launch(**{"theme": theme, "css_paths": STYLE, **quiet, **settings})


class _Explorer:
    """What the page answers to its user: values for its components."""

    def __init__(self, tickets: Tickets):
        self.tickets, self.theta0 = tickets, tickets.load_model()
        self.networks = Networks(tickets, self.theta0)
        self.order = network_order(self.theta0, tickets.partitions[0])
        self.references = [view_ticket(tickets, name, self.order) for name in ("core", "union")]

    def show(self, expression: str) -> list[Any]:
        """Update the message, the headline, the chart, the table, and the ticket chosen.

        A wrong composition leaves all but the message as it is.
        """
        try:
            view = view_ticket(self.tickets, expression, self.order)
        except MaskError as error:
            return [gr.HTML(problem(str(error)), visible=True), *[gr.skip()] * 4]
        return [
            gr.HTML(visible=False),
            headline(view, self.references),
            density_chart(draw_densities(view, self.references), view),
            density_table(view, self.references),
            view.name,
        ]

    def choose(self, name: str) -> list[Any]:
        """Update the text, and as `show`."""
        return [name, *self.show(name)]

    def compose(self, expression: str) -> list[Any]:
        """Update the dropdown, which is empty for what it does not list, and as `show`."""
        name = canonical(expression)
        return [name if name in self.tickets.names() else None, *self.show(expression)]

    def predict(self, name: str, image: Image | None) -> list[Any]:
        """Update a ticket's label, and the remark below it."""
        try:
            found = None if image is None else self.networks.predict(name, image)
            return [gr.Label(found, label=name), self.remark(name)]
        except (DiltError, OSError) as error:
            return [gr.Label(None, label=name), problem(str(error))]

    def remark(self, name: str) -> str:
        """Say with which weights a ticket predicts; the text stands out where they are untrained."""
        text = weights_note(self.tickets, name)
        return note(text, caution=text != TRAINED)

    def compare(self, chosen: str, image: Image | None) -> list[Any]:
        """Update as `predict` does, for the ticket chosen and for those it is compared with."""
        return [value for name in (chosen, *compared_names(self.tickets)) for value in self.predict(name, image)]


def _ticket_section(explorer: _Explorer) -> gr.State:
    """Build the section that chooses or composes a ticket and shows its densities; return its name."""
    gr.Markdown("## A ticket")
    chosen = gr.State(FIRST)
    _, first_headline, first_chart, first_table, _ = explorer.show(FIRST)
    with gr.Row():
        names = gr.Dropdown(
            explorer.tickets.names(), value=FIRST, label="Ticket", info="those that the partitions give", min_width=260
        )
        text = gr.Textbox(
            FIRST,
            label="Composition",
            info="+ adds weights, - removes them, such as core+specialist_0",
            min_width=260,
            max_length=LONGEST,
            max_lines=1,
            submit_btn="Show",
        )
    message = gr.HTML(visible=False)
    kept = gr.HTML(first_headline)
    with gr.Row():
        with gr.Column(min_width=320):
            chart = gr.HTML(first_chart)
        with gr.Column(min_width=320):
            table = gr.HTML(first_table)
    shown = [message, kept, chart, table, chosen]
    # `input` would come again when the dropdown is left, and put the old name over what is typed by then
    names.select(explorer.choose, names, [text, *shown], show_progress="hidden")
    text.submit(explorer.compose, text, [names, *shown], show_progress="hidden")
    return chosen


def _image_section(explorer: _Explorer, chosen: gr.State) -> None:
    """Build the section that gives the tickets an image and shows their predictions side by side."""
    gr.Markdown(f"## A image\n{ABOUT_IMAGE}")
    examples = example_images(explorer.tickets)
    with gr.Row():
        with gr.Column(min_width=260, scale=1):
            image = gr.Image(
                type="pil",
                format="png",
                sources=["upload", "clipboard"],
                label="Image",
                height=260,
                elem_classes="small-pictures" if examples else None,
            )
            if examples:
                gr.Examples(
                    examples,
                    image,
                    label="Test images of scikit-learn's digits",
                    examples_per_page=len(examples),
                    elem_id="examples",
                )
        with gr.Column(min_width=320, scale=3), gr.Column(elem_id="predictions"):
            outputs = [part for name in (FIRST, *compared_names(explorer.tickets)) for part in _card(explorer, name)]
    image.change(explorer.compare, [chosen, image], outputs, show_progress="minimal")
    chosen.change(explorer.predict, [chosen, image], outputs[:2], show_progress="minimal")


def _card(explorer: _Explorer, name: str) -> list[Any]:
    """Build the place of one ticket's prediction."""
    with gr.Column(elem_classes="card"):
        label = gr.Label(label=name, num_top_classes=5)
        remark = gr.HTML(explorer.remark(name))
    return [label, remark]
