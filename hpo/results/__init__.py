"""Results: finalists, retraining, export, summary and report."""

from hpo.results.export import MODEL_FILE, export_model, save_examples
from hpo.results.finalists import rerun_tasks
from hpo.results.lr_figures import draw_range_test, range_test_text
from hpo.results.outcome import Finalist, Outcome, choose_finalists, read_outcome
from hpo.results.predict import Prediction, predict
from hpo.results.report import REPORT_FILE, write_report
from hpo.results.retrain import accuracy_interval, retrain_task, test_interval
from hpo.results.summary import params_text, summary, trials_line

__all__ = [
    "MODEL_FILE",
    "REPORT_FILE",
    "Finalist",
    "Outcome",
    "Prediction",
    "accuracy_interval",
    "choose_finalists",
    "draw_range_test",
    "export_model",
    "params_text",
    "predict",
    "range_test_text",
    "read_outcome",
    "rerun_tasks",
    "retrain_task",
    "save_examples",
    "summary",
    "test_interval",
    "trials_line",
    "write_report",
]
