"""A comparison of samplers: statistics, verdict, figures and files."""

from hpo.comparison.curves import StudyRun, best_trial, study_run
from hpo.comparison.files import as_json
from hpo.comparison.report import REPORT_FILE, write_files
from hpo.comparison.result import Comparison
from hpo.comparison.verdict import comparison_text, power_warning

__all__ = [
    "REPORT_FILE",
    "Comparison",
    "StudyRun",
    "as_json",
    "best_trial",
    "comparison_text",
    "power_warning",
    "study_run",
    "write_files",
]
