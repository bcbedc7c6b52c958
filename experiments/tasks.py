"""The tasks that a config can name."""

from .forecasting.task import Forecasting
from .images.calibration import Calibration
from .images.task import Classification
from .language.task import Language
from .localization.task import Localization
from .schedules.task import ScheduledImages, ScheduledWords
from .sensors.task import Sensors
from .tagging.task import Tagging
from .task import Task
from .words.task import WordLSTM, WordTransformer

TASKS: dict[str, type[Task]] = {
    "tagging": Tagging,
    "forecasting": Forecasting,
    "language": Language,
    "image_classification": Classification,
    "calibration": Calibration,
    "sensors": Sensors,
    "word_lstm": WordLSTM,
    "word_transformer": WordTransformer,
    "scheduled_words": ScheduledWords,
    "scheduled_images": ScheduledImages,
    "localization": Localization,
}
PLANNED = ("resnet50", "decoder")
"""The tasks that `experiments.tpu_plan` plans and nothing trains."""
