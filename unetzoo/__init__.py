"""A zoo of U-Nets for PyTorch: ``unetzoo.create("resunet50", pretrained=True)``.

``import unetzoo`` imports nothing else: each public name is imported from its module when it is first used, and so are
public modules such as ``unetzoo.losses``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unetzoo.comparing.comparison import compare as compare
    from unetzoo.comparing.table import Comparison as Comparison
    from unetzoo.config import ModelConfig as ModelConfig
    from unetzoo.decoders import Decoder as Decoder, Feature as Feature, register_decoder as register_decoder
    from unetzoo.encoders import Encoder as Encoder, register_encoder as register_encoder
    from unetzoo.errors import (
        ConfigError as ConfigError,
        DamagedError as DamagedError,
        HubError as HubError,
        InputError as InputError,
        TrainingError as TrainingError,
        UnetzooError as UnetzooError,
        WeightsError as WeightsError,
        WriteError as WriteError,
    )
    from unetzoo.evaluation import (
        Calibration as Calibration,
        Evaluation as Evaluation,
        calibrate as calibrate,
        evaluate as evaluate,
    )
    from unetzoo.exporting import ExportReport as ExportReport, export as export
    from unetzoo.files.checkpoints import load_state_dict_file as load_state_dict_file
    from unetzoo.folding import OptimizedModel as OptimizedModel, optimize as optimize
    from unetzoo.foreign.loading import load_foreign as load_foreign
    from unetzoo.hub import (
        PushedModel as PushedModel,
        from_pretrained as from_pretrained,
        pull_from_hub as pull_from_hub,
        push_to_hub as push_to_hub,
        save_pretrained as save_pretrained,
    )
    from unetzoo.information import ModelInfo as ModelInfo, model_info as model_info
    from unetzoo.model import SegmentationModel as SegmentationModel, TrainingOutputs as TrainingOutputs
    from unetzoo.naming import list_encoders as list_encoders, list_models as list_models
    from unetzoo.parameter_groups import param_groups as param_groups
    from unetzoo.prediction import Prediction as Prediction, Predictor as Predictor
    from unetzoo.saving.cards import ModelCard as ModelCard
    from unetzoo.saving.conversion import convert as convert
    from unetzoo.saving.records import SavedModel as SavedModel
    from unetzoo.saving.sources import create as create, from_bioimageio as from_bioimageio
    from unetzoo.saving.weights import load as load, save as save, verify as verify
    from unetzoo.slides import Slide as Slide
    from unetzoo.train.fitting import fit as fit
    from unetzoo.train.runs import Run as Run
    from unetzoo.zoo import from_config as from_config, register_model as register_model

_HOMES = {
    "evaluation": ("Calibration", "Evaluation", "calibrate", "evaluate"),
    "saving.cards": ("ModelCard",),
    "files.checkpoints": ("load_state_dict_file",),
    "comparing.comparison": ("compare",),
    "comparing.table": ("Comparison",),
    "config": ("ModelConfig",),
    "saving.conversion": ("convert",),
    "decoders": ("Decoder", "Feature", "register_decoder"),
    "encoders": ("Encoder", "register_encoder"),
    "errors": (
        "ConfigError",
        "DamagedError",
        "HubError",
        "InputError",
        "TrainingError",
        "UnetzooError",
        "WeightsError",
        "WriteError",
    ),
    "exporting": ("ExportReport", "export"),
    "parameter_groups": ("param_groups",),
    "hub": ("PushedModel", "from_pretrained", "pull_from_hub", "push_to_hub", "save_pretrained"),
    "information": ("ModelInfo", "model_info"),
    "model": ("SegmentationModel", "TrainingOutputs"),
    "naming": ("list_encoders", "list_models"),
    "foreign.loading": ("load_foreign",),
    "folding": ("OptimizedModel", "optimize"),
    "prediction": ("Prediction", "Predictor"),
    "saving.records": ("SavedModel",),
    "saving.weights": ("load", "save", "verify"),
    "saving.sources": ("create", "from_bioimageio"),
    "slides": ("Slide",),
    "train.fitting": ("fit",),
    "train.runs": ("Run",),
    "zoo": ("from_config", "register_model"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    *("augmentation", "data", "drawing", "evaluation", "images", "losses", "metrics", "objects", "testing", "train"),
)

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"unetzoo.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'unetzoo' has no attribute {name!r}")
    value = getattr(import_module(f"unetzoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
