"""The page: what stands where, and what happens when something is moved."""

from __future__ import annotations

import html
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unetzoo.errors import InputError
from unetzoo.objects.separating import separable
from unetzoo.prediction import Predictor
from unetzoo.serving import answers
from unetzoo.serving.answers import Answer, Limits, Segmented

THRESHOLD, OPACITY = 0.5, 0.5
"""Where the sliders stand at first; those of Predictor and of Prediction.overlay."""
WAITING = 32
"""Requests that may wait for their turn."""
SECONDS_KEPT = 3600
"""For files that were sent or drawn."""
CSS = """
.gradio-container main { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
.heading h1 { font-size: 1.6rem; font-weight: 650; margin: 0.6rem 0 0.2rem; overflow-wrap: anywhere; }
.heading p, p.note { opacity: 0.72; margin: 0; font-size: 0.9rem; overflow-wrap: anywhere; }
p.refusal { margin: 0; padding: 0.5rem 0.75rem; border-radius: 6px; font-size: 0.9rem; overflow-wrap: anywhere;
  border: 1px solid #dc262680; background: #dc26261a; }
table.legend { width: 100%; border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
table.legend, table.legend thead, table.legend tbody, table.legend tr { border: 0 !important; }
table.legend th { font-weight: 500; opacity: 0.72; }
table.legend th, table.legend td { text-align: right; padding: 0.3rem 0.5rem; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
table.legend th:first-child, table.legend td:first-child { text-align: left; overflow-wrap: anywhere; }
.chip { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 3px; margin-right: 0.6em;
  border: 1px solid var(--border-color-primary); vertical-align: -0.05em; }
.legend-box { max-height: 320px; overflow-y: auto; }
.fitted img { width: 100%; height: 100%; object-fit: contain; }
footer { display: none !important; }
"""
SAVE = "(file) => { const a = document.createElement('a'); a.href = file.url; a.download = file.orig_name; a.click(); }"
"""Saves what the server has just written: masks are written when they are asked for, not at each move of a slider."""


class Events:
    """What is done when an image is sent, a slider moved, a button pressed: components' values in, values out.

    Args:
        gradio: the module.
        predictor: of the model.
        limits: of images.
    """

    def __init__(self, gradio: Any, predictor: Predictor, limits: Limits) -> None:
        self.gradio = gradio
        self.predictor = predictor
        self.limits = limits
        self.invitation = _note(
            f"PNG, JPEG, TIFF, WebP, GIF or BMP, up to {limits.megapixels:g} megapixels and {limits.megabytes:g} MB."
        )
        # Of a model that tells objects apart: who asked for `split` was refused before.
        missing = predictor.config.task == "instances" and not separable(predictor.split)
        self.uncounted = " Objects are not counted: that needs pip install 'unetzoo[objects]'." if missing else ""

    def ask(self, path: str | None, threshold: float, opacity: float) -> list[Any]:
        """Segment an image; return what is kept, a note, the image, and what :meth:`shown` returns."""
        if path is None:
            return [None, self.invitation, None, *self.shown(None, opacity)]
        begin = time.perf_counter()
        try:
            found = answers.answer(self.predictor, path, self.limits)
        except InputError as error:
            return [None, _refusal(str(error)), None, *self.shown(None, opacity)]
        seconds, seen = time.perf_counter() - begin, found.at(threshold)
        height, width = seen.prediction.image.shape[1:]
        said = f"{width} × {height} pixels, segmented in {seconds:.1f} s.{self.uncounted}"
        image = _array(answers.picture(seen).fitted().image)
        return [found, _note(said), image, *self.shown(seen, opacity)]

    def redraw(self, found: Answer | None, threshold: float, opacity: float) -> list[Any]:
        """Return what :meth:`shown` returns for other sliders; the network is not asked."""
        return self.shown(None if found is None else found.at(threshold), opacity)

    def shown(self, seen: Segmented | None, opacity: float) -> list[Any]:
        """Return overlay, mask, legend, and whether each of them can be downloaded."""
        ready = [self.gradio.update(interactive=seen is not None)] * 2
        if seen is None:
            return [None, None, "", *ready]
        small = answers.picture(seen).fitted()
        drawn = [_array(small.overlaid(opacity)), _array(small.painted())]
        return [*drawn, answers.legend_html(answers.legend(seen)), *ready]

    def write_mask(self, found: Answer | None, threshold: float, _: float) -> str:
        """Write the mask in full size; return its file."""
        return self._written(found, threshold, answers.write_masks)

    def write_overlay(self, found: Answer | None, threshold: float, opacity: float) -> str:
        """Write the overlay in full size; return its file."""
        return self._written(found, threshold, lambda seen, folder: answers.write_overlay(seen, opacity, folder))

    def _written(self, found: Answer | None, threshold: float, write: Callable[[Segmented, Path], Path]) -> str:
        if found is None:
            raise self.gradio.Error("This image is no longer kept here: give it again.", print_exception=False)
        with tempfile.TemporaryDirectory() as folder:
            file = write(found.at(threshold), Path(folder))
            kept = os.environ["GRADIO_TEMP_DIR"]
            return str(self.gradio.processing_utils.save_file_to_cache(file, cache_dir=kept))


def build(gradio: Any, predictor: Predictor, name: str, line: str, limits: Limits) -> Any:
    """Return the page as ``gradio.Blocks``, not yet served.

    Args:
        gradio: the module.
        predictor: of the model.
        name, line: the heading.
        limits: of images.
    """
    gr, events = gradio, Events(gradio, predictor, limits)
    what = "masks (ZIP)" if predictor.config.pixel_task == "multilabel" else "mask (PNG)"
    button = {"interactive": False, "min_width": 140, "size": "md"}
    old = (SECONDS_KEPT // 6, SECONDS_KEPT)  # how often it is looked for, and from what age on
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=old, fill_width=True) as page:
        parts = {"kept": gr.State(), "written": gr.File(visible=False)}
        gr.HTML(f"<h1>{html.escape(name)}</h1><p>{html.escape(line)}</p>", elem_classes="heading")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                parts["file"] = gr.File(label="Image", file_types=list(answers.SUFFIXES), height=172, elem_id="file")
                parts["note"] = gr.HTML(events.invitation, elem_id="note")
                parts["image"] = gr.Image(**_view("image", 300))
                parts["threshold"] = gr.Slider(
                    0, 0.99, THRESHOLD, step=0.01, label="Threshold", elem_id="threshold",
                    visible=predictor.config.pixel_task != "multiclass",
                )  # fmt: skip
                parts["opacity"] = gr.Slider(
                    0, 1, OPACITY, step=0.05, label="Opacity of the overlay", elem_id="opacity"
                )
            with gr.Column(scale=3, min_width=320):
                with gr.Tab("Overlay"):
                    parts["overlay"] = gr.Image(**_view("overlay", 470))
                with gr.Tab("Mask"):
                    parts["mask"] = gr.Image(**_view("mask", 470))
                parts["legend"] = gr.HTML(elem_id="legend", elem_classes="legend-box")
                with gr.Row():
                    parts["save_mask"] = gr.Button(f"Download {what}", elem_id="save-mask", **button)
                    parts["save_overlay"] = gr.Button("Download overlay (PNG)", elem_id="save-overlay", **button)
        _connect(parts, events)
    page.queue(max_size=WAITING, api_open=False, default_concurrency_limit=1)
    return page


def _connect(parts: dict[str, Any], events: Events) -> None:
    """Say which parts of the page ask for what; one image is segmented at a time."""
    sliders = [parts["threshold"], parts["opacity"]]
    right = [parts[name] for name in ("overlay", "mask", "legend", "save_mask", "save_overlay")]
    parts["file"].change(
        events.ask,
        [parts["file"], *sliders],
        [parts["kept"], parts["note"], parts["image"], *right],
        show_progress_on=parts["overlay"],
        api_visibility="private",
        concurrency_limit=1,
    )
    for slider in sliders:
        slider.change(
            events.redraw,
            [parts["kept"], *sliders],
            right,
            trigger_mode="always_last",  # a slider that is drawn moves faster than large masks
            show_progress="hidden",
            api_visibility="private",
        )
    for name, write in (("save_mask", events.write_mask), ("save_overlay", events.write_overlay)):
        parts[name].click(
            write,
            [parts["kept"], *sliders],
            parts["written"],
            show_progress="minimal",
            show_progress_on=parts[name],
            api_visibility="private",
        ).success(None, parts["written"], None, js=SAVE)


def _view(name: str, height: int) -> dict[str, Any]:
    """Return what all three images of the page have in common."""
    return {
        "show_label": False,
        "interactive": False,
        "format": "png",
        "height": f"min({height}px, 85vw)",
        "buttons": ["fullscreen"],
        "elem_id": name,
        "elem_classes": "fitted",
    }


def _array(drawn: Any) -> Any:
    return drawn.permute(1, 2, 0).contiguous().numpy()


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _refusal(text: str) -> str:
    return f'<p class="refusal" role="alert">{html.escape(text)}</p>'


def theme(gradio: Any) -> Any:
    """Return a theme whose fonts are those of the visitor's machine: none is fetched."""
    plain = ["system-ui", "sans-serif"]
    return gradio.themes.Default(font=plain, font_mono=["ui-monospace", "monospace"], primary_hue="blue")
