"""The page: its layout, and which parts trigger which events."""

from __future__ import annotations

import functools
import html
from typing import Any

from unetzoo.prediction import Predictor
from unetzoo.serving import files, parts
from unetzoo.serving.events import VIEWS, Events
from unetzoo.serving.limits import SUFFIXES, Limits
from unetzoo.serving.style import CHOOSE, ENLARGE, SAVE, SORT

THRESHOLD, OPACITY = 0.5, 0.5
"""Initial values of the sliders: the defaults of Predictor and of Prediction.overlay."""
WAITING = 32
"""Largest number of requests in the queue."""
PLAIN = {"apply_default_css": False, "elem_classes": "plain"}
"""Options of HTML parts that have their own style."""
SECONDS_KEPT = 3600
"""How long uploaded and written files are kept."""


def build(gradio: Any, predictor: Predictor, name: str, line: str, limits: Limits) -> Any:
    """Return the page as ``gradio.Blocks``, not yet served.

    Args:
        gradio: the module.
        predictor: of the model.
        name, line: the heading.
        limits: of images.
    """
    gr, events = gradio, Events(gradio, predictor, limits)
    old = (SECONDS_KEPT // 6, SECONDS_KEPT)  # how often files are checked, and the age at which they are deleted
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=old, fill_width=True) as page:
        shown = {"kept": gr.State(), "turn": gr.State(0), "written": gr.File(visible=False)}
        gr.HTML(f"<h1>{html.escape(name)}</h1><p>{html.escape(line)}</p>", elem_classes="heading", js_on_load=None)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                _left(gr, shown, events, sure=predictor.config.pixel_task != "multiclass")
            with gr.Column(scale=3, min_width=320):
                _right(gr, shown, events, several=predictor.config.pixel_task == "multilabel")
        _connect(gr, shown, events)
    page.queue(max_size=WAITING, api_open=False, default_concurrency_limit=1)
    return page


def _left(gr: Any, shown: dict[str, Any], events: Events, *, sure: bool) -> None:
    """Place the inputs: images, and how they are shown."""
    shown["file"] = gr.File(
        label="Images", file_count="multiple", file_types=list(SUFFIXES), height=172, elem_id="file"
    )
    drawn = [parts.Thumbnail(sample.name, parts.embedded(sample.image)) for sample in events.samples]
    shown["samples"] = gr.HTML(
        parts.strip(drawn, "Or try a drawn image"), js_on_load=CHOOSE, elem_id="samples", visible=bool(drawn), **PLAIN
    )
    shown["note"] = gr.HTML(events.invitation, elem_id="note", js_on_load=None)
    shown["strip"] = gr.HTML(elem_id="strip", js_on_load=CHOOSE, **PLAIN)
    shown["threshold"] = gr.Slider(
        0, 0.99, THRESHOLD, step=0.01, label="How sure the model has to be (threshold)", elem_id="threshold",
        visible=sure,
    )  # fmt: skip
    shown["opacity"] = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity of the colours", elem_id="opacity")
    shown["view"] = gr.Radio(list(VIEWS), value=VIEWS[0], label="Show", elem_id="view")


def _right(gr: Any, shown: dict[str, Any], events: Events, *, several: bool) -> None:
    """Place the results: image, legend, table, files."""
    shown["overlay"] = gr.HTML(elem_id="overlay", js_on_load=ENLARGE, **PLAIN)
    shown["legend"] = gr.HTML(elem_id="legend", js_on_load=None, **PLAIN)
    shown["table"] = gr.HTML(elem_id="objects", js_on_load=SORT, **PLAIN)
    called = {"mask": "masks (ZIP)" if several else "mask (PNG)", "overlay": "overlay (PNG)", **files.FORMATS}
    called |= {"table": "table (CSV)", "all": "all results (ZIP)"}
    with gr.Row():
        for kind in (*events.files, "all"):
            shown[f"save_{kind}"] = gr.Button(
                f"Download {called[kind]}", elem_id=f"save-{kind}", interactive=False, min_width=190, size="md",
                variant="primary" if kind == "all" else "secondary",
            )  # fmt: skip


def _connect(gr: Any, shown: dict[str, Any], events: Events) -> None:
    """Connect the parts of the page to events; one image is segmented at a time."""
    settings = [shown[name] for name in ("kept", "threshold", "opacity", "view")]
    saved = [*events.files, "all"]
    out = [shown[name] for name in ("note", "strip", "overlay", "legend", "table", *(f"save_{kind}" for kind in saved))]
    private = {"api_visibility": "private"}
    gr.on(
        [shown["file"].change, shown["turn"].change],
        events.ask,
        [shown["file"], shown["kept"], shown["turn"], *settings[1:]],
        [shown["kept"], shown["turn"], *out],
        show_progress_on=shown["overlay"],
        trigger_mode="always_last",
        concurrency_limit=1,
        **private,
    )

    def chosen(event: Any, *values: Any) -> list[Any]:
        return events.choose(_number(event), *values)

    def sampled(event: Any, paths: Any) -> list[str]:
        return events.sample(_number(event), paths)

    for function in (chosen, sampled):  # gradio looks at annotations to know that it must pass the event
        function.__annotations__ = {"event": gr.EventData}
    shown["strip"].click(chosen, settings, out, show_progress="hidden", **private)
    shown["samples"].click(sampled, shown["file"], shown["file"], show_progress="hidden", **private)
    moved = {"trigger_mode": "always_last", "show_progress": "hidden", **private}
    # A dragged slider moves faster than large masks can be drawn.
    shown["threshold"].change(events.shown, settings, out, **moved)
    gr.on([shown["opacity"].change, shown["view"].change], events.repaint, settings, shown["overlay"], **moved)
    for kind in saved:
        button = shown[f"save_{kind}"]
        button.click(
            functools.partial(events.write, kind), settings, shown["written"],
            show_progress="minimal", show_progress_on=button, **private,
        ).success(None, shown["written"], None, js=SAVE)  # fmt: skip


def _number(event: Any) -> object:
    """Return the number of the pressed button from the browser's event; None if the event is not valid."""
    try:
        return event.number
    except (AttributeError, TypeError):
        return None


def theme(gradio: Any) -> Any:
    """Return a theme with the fonts of the visitor's machine: none is fetched."""
    plain = ["system-ui", "sans-serif"]
    chosen = gradio.themes.Default(font=plain, font_mono=["ui-monospace", "monospace"], primary_hue="blue")
    # White on gradio's own blue is hard to read.
    return chosen.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )
