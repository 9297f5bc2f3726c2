"""The ledger: Optuna's study and our own tables, in one database."""

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
    SearchEnd,
    constraints_of,
    count_states,
    create_study,
    is_infeasible,
    put_constraints,
    put_intermediate_value,
    put_search_end,
    requeue_running,
    search_end,
    study_exists,
    was_refused,
)

__all__ = [
    "DatabaseError",
    "EpochRecord",
    "ExperimentRecord",
    "ExportRecord",
    "Ledger",
    "LrRangeRecord",
    "RerunRecord",
    "SearchEnd",
    "TestReading",
    "constraints_of",
    "count_states",
    "create_study",
    "database_exists",
    "is_infeasible",
    "open_engine",
    "open_optuna_storage",
    "put_constraints",
    "put_intermediate_value",
    "put_search_end",
    "requeue_running",
    "search_end",
    "shown_url",
    "study_exists",
    "was_refused",
]
