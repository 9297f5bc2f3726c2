"""Results: finalists, retraining, exports, predictions, summary, report and model card."""

from hpo.results.comparison import (
    ONNX_RESIZING_TOLERANCE,
    TOLERANCE,
    Comparison,
    compare_reloaded,
    refuse_mismatch,
)
from hpo.results.evidence import EVIDENCE_FILE, Evidence, read_evidence
from hpo.results.export import (
    entry_of,
    export_model,
    record_of,
    save_examples,
)
from hpo.results.finalists import confirmation_tasks, rerun_tasks, wanted_reruns
from hpo.results.lr_figures import draw_range_test, range_test_text
from hpo.results.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    ManifestEntry,
    read_manifest,
    unfinished,
    verified,
    write_file,
    write_manifest,
)
from hpo.results.model_card import MODEL_CARD_FILE, write_model_card
from hpo.results.outcome import Finalist, Outcome, choose_finalists, read_outcome
from hpo.results.pareto import front_of, shown
from hpo.results.predict import Prediction, Predictions, predict
from hpo.results.report import REPORT_FILE, write_report
from hpo.results.retrain import accuracy_interval, retrain_task, test_interval
from hpo.results.summary import params_text, summary, trials_line

__all__ = [
    "EVIDENCE_FILE",
    "MANIFEST_FILE",
    "MODEL_CARD_FILE",
    "MODEL_FILE",
    "ONNX_RESIZING_TOLERANCE",
    "REPORT_FILE",
    "TOLERANCE",
    "WEIGHTS_FILE",
    "Comparison",
    "Evidence",
    "Finalist",
    "ManifestEntry",
    "Outcome",
    "Prediction",
    "Predictions",
    "accuracy_interval",
    "choose_finalists",
    "compare_reloaded",
    "confirmation_tasks",
    "draw_range_test",
    "entry_of",
    "export_model",
    "front_of",
    "params_text",
    "predict",
    "range_test_text",
    "read_evidence",
    "read_manifest",
    "read_outcome",
    "record_of",
    "refuse_mismatch",
    "rerun_tasks",
    "retrain_task",
    "save_examples",
    "shown",
    "summary",
    "test_interval",
    "trials_line",
    "unfinished",
    "verified",
    "wanted_reruns",
    "write_file",
    "write_manifest",
    "write_model_card",
    "write_report",
]
