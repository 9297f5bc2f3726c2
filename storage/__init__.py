"""The ledger: Optuna's study and our own tables, in one database."""

from storage.comparisons import ComparisonLedger, ComparisonRecord, StudyKey
from storage.database import (
    DatabaseError,
    database_exists,
    open_engine,
    open_optuna_storage,
    shown_url,
)
from storage.ledger import (
    EpochRecord,
    ExperimentRecord,
    ExportRecord,
    Ledger,
    LrRangeRecord,
    RerunRecord,
    TestReading,
)
from storage.studies import (
    count_states,
    create_study,
    is_infeasible,
    mark_infeasible,
    n_finished,
    put_intermediate_value,
    requeue_running,
    study_exists,
)

__all__ = [
    "ComparisonLedger",
    "ComparisonRecord",
    "DatabaseError",
    "EpochRecord",
    "ExperimentRecord",
    "ExportRecord",
    "Ledger",
    "LrRangeRecord",
    "RerunRecord",
    "StudyKey",
    "TestReading",
    "count_states",
    "create_study",
    "database_exists",
    "is_infeasible",
    "mark_infeasible",
    "n_finished",
    "open_engine",
    "open_optuna_storage",
    "put_intermediate_value",
    "requeue_running",
    "shown_url",
    "study_exists",
]
