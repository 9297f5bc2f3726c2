"""Drive a trainable one epoch at a time; whatever the user's code does comes back as a report."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpo.execution.fitness import UnfitMachineError, make_folder, must_have_data, must_see_gpu
from hpo.failpoints import failpoint
from hpo.tasks import OUTPUT_FILE, TRACEBACK_FILE, EpochReport, FailCause, TrialTask, unfit
from trainables import (
    Checkpoint,
    DataError,
    LrRangeTest,
    Segment,
    Trainable,
    TrainableError,
    TrialContext,
    find_trainable,
    pack,
)

NO_END = sys.maxsize
"""The epoch up to which the last part of a training goes: its own end, or the budget's."""

LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<frozen ")
"""Where code lies that no user wrote."""


class ReportError(ValueError):
    """A trainable yielded something that is no set of metrics, or lacks the objective."""


class UnknownQuantityError(ReportError):
    """The spec limits a quantity that the trainable does not tell."""


class NotFiniteError(ReportError):
    """A trainable yielded NaN or infinity where a number decides."""


class InfeasibleConfigError(Exception):
    """A config is refused before it is trained; ``place`` is equal for refusals of one cause."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


class OtherDataError(Exception):
    """The data are no more what they were when the search began."""


class TrialDrive:
    """One trial in this process. Never raises for what the trainable does."""

    def __init__(self, task: TrialTask) -> None:
        self._task, self._context = task, _watched(task.context)
        self._trainable: Trainable | None = None
        self._reports: Iterator[Any] | None = None
        self._segments = [*task.context.earlier, Segment(config=task.config, until_epoch=NO_END)]
        self._epoch = 0
        """Of the trainable; it may be behind the last one that is known of the trial."""
        self._is_first_of_segment = False
        self._known = list(task.known)
        self._last = task.done or EpochReport(epoch=0, metrics={}, seconds=0.0)
        self._fingerprint: str | None = None
        self._warnings: tuple[str, ...] = ()
        self._facts: Mapping[str, float] | None = None
        self._seconds = 0.0 if task.done is None else task.done.seconds
        """Of all epochs so far, those of an earlier start included."""

    def next_report(self) -> EpochReport:
        """Train one epoch more and report it."""
        start = time.perf_counter()
        if self._task.purpose != "train":
            return self._only_report()
        try:
            with self._output_to_file():
                if self._trainable is None:
                    self._trainable = self._start()
                    self._last = replace(self._last, facts=self._facts)
                    start = time.perf_counter()  # importing the trainable is no training
                if self._known:
                    return self._reported_again(self._known.pop(0))
                reported = self._next_new(self._trainable)
                metrics = read_metrics(reported, self._task.objectives, self._facts)
        except StopIteration:
            return self._ended_by_itself()
        except (Exception, SystemExit) as error:  # noqa: BLE001  it is the trial's end, with reason
            return self._failed(error, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        self._seconds += seconds
        limit_s = self._task.time_limit_s
        if limit_s is not None and self._seconds > limit_s:
            return self._timed_out(limit_s, seconds)
        saved = self._context.checkpoints.saved
        self._last = EpochReport(
            epoch=self._epoch,
            metrics=metrics,
            seconds=seconds,
            fingerprint=self._fingerprint,
            warnings=self._warnings,
            facts=self._facts,
            checkpoint=saved.sha256 if saved is not None and saved.epoch == self._epoch else None,
            complaints=self._new_complaints(),
        )
        return self._last_or_complete()

    def _last_or_complete(self) -> EpochReport:
        if self._last.epoch == self._task.context.max_epochs:
            self.close()
            return self._complete()
        return self._last

    def _reported_again(self, known: EpochReport) -> EpochReport:
        """An epoch of an earlier start, for whoever judges this trial."""
        self._seconds += known.seconds
        self._last = replace(
            known,
            fingerprint=self._fingerprint,
            warnings=self._warnings,
            facts=self._facts,
        )
        return self._last_or_complete()

    def _next_new(self, trainable: Trainable) -> Any:
        """The next report of an epoch that is not known yet.

        Where the newest checkpoint is damaged, the training goes on from an earlier one: epochs
        that are known already are trained once more, without a word.
        """
        while True:
            if self._reports is None:
                found = self._context.checkpoints.find()
                self._reports = self._segment_after(0 if found is None else found.epoch, trainable)
            elif self._epoch == self._segments[0].until_epoch:
                self._reports = self._segment_after_checkpoint(trainable)
            before = self._context.checkpoints.saved
            reported = next(self._reports)
            self._check_epoch(before)
            self._epoch += 1
            if self._epoch > self._last.epoch:
                return reported

    def _segment_after(self, epoch: int, trainable: Trainable) -> Iterator[Any]:
        """The part of the training that follows ``epoch``, with the config of that part."""
        self._epoch, self._is_first_of_segment = epoch, True
        while self._segments[0].until_epoch <= epoch:
            self._segments.pop(0)
        return trainable.reports(dict(self._segments[0].config), self._context)

    def _segment_after_checkpoint(self, trainable: Trainable) -> Iterator[Any]:
        """The next part of a training whose config changes.

        Raises:
            ReportError: if the part before it has left no checkpoint.
        """
        self.close()
        saved, complaints = self._context.checkpoints.saved, self._new_complaints()
        if saved is None or saved.epoch != self._epoch:
            raise ReportError(
                f"trainable {self._task.trainable!r} kept no checkpoint of epoch {self._epoch}, "
                "after which its config changes"
            )
        self._context = _watched(replace(self._context, resume_from=(saved,)))
        self._context.checkpoints.complaints += complaints
        return self._segment_after(self._epoch, trainable)

    def _check_epoch(self, before: Checkpoint | None) -> None:
        """Whether the trainable stands where it should; ``before`` is what it had saved before.

        Raises:
            ReportError: if it has called this epoch something else, or did not go on from a
                checkpoint where it has to.
        """
        checkpoints, is_first = self._context.checkpoints, self._is_first_of_segment
        self._is_first_of_segment = False
        if is_first and checkpoints.resumed is None and checkpoints.find() is not None:
            if self._context.earlier:
                raise ReportError(
                    f"trainable {self._task.trainable!r} did not go on from its checkpoint: call "
                    "trial.checkpoints.load() before the first epoch"
                )
            self._epoch = 0
        saved, epoch = checkpoints.saved, self._epoch + 1
        if saved is not None and saved is not before and saved.epoch != epoch:
            raise ReportError(
                f"the trainable saved a checkpoint of epoch {saved.epoch} and then yielded epoch "
                f"{epoch}; epochs count from 1, and each is saved just before it is yielded"
            )

    def _new_complaints(self) -> tuple[str, ...]:
        complaints = self._context.checkpoints.complaints
        new = tuple(complaints)
        complaints.clear()
        return new

    def close(self) -> None:
        """End the trainable, which may be in the middle; its ``finally`` blocks run."""
        if self._reports is not None:
            # The trial's result stands already; a cleanup that fails cannot change it.
            with contextlib.suppress(Exception, SystemExit), self._output_to_file():
                self._reports.close()  # type: ignore[attr-defined]
            self._reports = None

    def _start(self) -> Trainable:
        """Import the trainable, and let it say what it knows beforehand."""
        task, trainable = self._task, self._found()
        self._facts = self._known_beforehand(trainable)
        if task.wants_fingerprint and trainable.fingerprint is not None:
            self._fingerprint = trainable.fingerprint(dict(task.config), task.context)
        if task.wants_fingerprint and trainable.warnings is not None:
            self._warnings = tuple(trainable.warnings(dict(task.config), task.context))
        return trainable

    def _known_beforehand(self, trainable: Trainable) -> Mapping[str, float] | None:
        if trainable.constraints is None:
            return None
        try:
            facts = dict(trainable.constraints(dict(self._task.config), self._task.context))
        except ValueError as error:
            raise InfeasibleConfigError(str(error), str(error)) from None
        self._facts = facts  # also of a config that is about to be refused
        if (broken := self._task.broken_limit(facts)) is not None:
            raise InfeasibleConfigError(*broken)
        return facts

    def _only_report(self) -> EpochReport:
        """Everything that is no epoch: one report, which carries what the trainable hands back."""
        start = time.perf_counter()
        hand_back = self._find_lr if self._task.purpose == "find_lr" else self._finish
        try:
            with self._output_to_file():
                report = hand_back(self._found())
        except (Exception, SystemExit) as error:  # noqa: BLE001  it is the task's end, with reason
            return self._failed(error, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        return replace(
            report, epoch=1, seconds=seconds, ending="complete", fingerprint=self._fingerprint
        )

    def _finish(self, trainable: Trainable) -> EpochReport:
        """Retrain and test."""
        task = self._task
        if trainable.finish is None:
            return self._last
        model = pack(trainable.finish(dict(task.config), task.context), task.trainable)
        return replace(self._last, final_model=model)

    def _find_lr(self, trainable: Trainable) -> EpochReport:
        """The range test."""
        task = self._task
        self._known_beforehand(trainable)
        if trainable.find_lr is None:
            raise ReportError(f"trainable {task.trainable!r} offers no `find_lr`")
        test = trainable.find_lr(dict(task.config), task.context)
        if not isinstance(test, LrRangeTest):
            raise ReportError(f"`find_lr` must return an LrRangeTest, got {test!r:.80}")
        return replace(self._last, lr_range_test=test)

    def _found(self) -> Trainable:
        """Import it, on a machine that lacks nothing: where one does, every trial would fail."""
        task = self._task
        make_folder(task)
        must_see_gpu(task)
        try:
            trainable = find_trainable(task.trainable, task.import_paths)
        except TrainableError as error:  # the driver has looked: it is the machine
            raise UnfitMachineError(str(error)) from error
        self._refuse_other_data(trainable)
        must_have_data(trainable, task)
        return trainable

    def _refuse_other_data(self, trainable: Trainable) -> None:
        """Before anything is trained: the test set is read once, and not if it is another one."""
        known = self._task.known_data
        if known is None or trainable.fingerprint is None:
            return
        try:
            self._fingerprint = trainable.fingerprint(dict(known.config), self._context)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"the data of this search cannot be read any more: {reason}") from error
        if self._fingerprint != known.fingerprint:
            raise OtherDataError(f"the fingerprint of the data is {self._fingerprint}")

    def _ended_by_itself(self) -> EpochReport:
        self._reports = None
        if self._last.epoch == 0:
            return self._failed(ReportError("the trainable yielded no metrics at all"), 0.0)
        self._last = replace(self._last, complaints=self._new_complaints())
        return self._complete()

    def _complete(self) -> EpochReport:
        """The last report of a training that has come to its end."""
        try:
            check_limited(self._last.quantities, self._task, self._facts or {})
        except ReportError as error:
            return self._failed(error, self._last.seconds)
        return replace(self._last, ending="complete")

    def _timed_out(self, limit_s: float, seconds: float) -> EpochReport:
        """Also of a training that would be whole now: a limit that may be broken is none."""
        self.close()
        limit = f"budget.trial_time_limit_s={limit_s:g}"
        return replace(
            self._last,
            seconds=seconds,
            complaints=self._new_complaints(),
            ending="failed",
            fail_reason=f"took {self._seconds:.3g} s for {self._last.epoch + 1} epochs; {limit}",
            fail_place=limit,
            fail_cause="timeout",
        )

    def _failed(self, error: BaseException, seconds: float) -> EpochReport:
        self._reports = None
        if isinstance(error, InfeasibleConfigError):
            return replace(
                self._last,
                ending="failed",
                fail_reason=f"infeasible: {error}",
                fail_place=f"infeasible: {error.place}",
                fail_cause="infeasible",
                facts=self._facts,
            )
        if isinstance(error, UnfitMachineError):
            return unfit(socket.gethostname(), str(error))
        if isinstance(error, DataError | OtherDataError):
            where = f" (on {socket.gethostname()})" if isinstance(error, DataError) else ""
            return replace(
                self._last,
                ending="failed",
                fail_reason=f"{error}{where}",
                is_unfit=True,
                fingerprint=self._fingerprint,
            )
        place = _place(error)
        text = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError):  # a full disk must not hide what failed
            self._task.context.folder.mkdir(parents=True, exist_ok=True)
            (self._task.context.folder / TRACEBACK_FILE).write_text(text, encoding="utf-8")
        return EpochReport(
            epoch=self._last.epoch,
            metrics=self._last.metrics,
            seconds=seconds,
            ending="failed",
            fail_reason=f"{type(error).__name__}: {error}" + (f" ({place})" if place else ""),
            fail_place=f"{type(error).__name__} {place or error}",
            fail_cause=fail_cause(error),
            traceback=text,
            complaints=self._new_complaints(),
        )

    @contextlib.contextmanager
    def _output_to_file(self) -> Iterator[None]:
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield
        finally:
            if text := output.getvalue():
                file = self._task.context.folder / OUTPUT_FILE
                with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as opened:
                    opened.write(text)  # a full disk costs what was printed, and no trial


def _watched(context: TrialContext) -> TrialContext:
    context.checkpoints.on_step = _step_done
    return context


def _step_done(step: str) -> None:
    """Of writing a checkpoint."""
    failpoint(f"checkpoint {step}")


def read_metrics(
    reported: Any, objectives: Sequence[str], facts: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The metrics of one report as numbers; a bare number is the objective, the first one.

    With several objectives one that the report lacks may be among the ``facts`` known beforehand.

    Raises:
        ReportError: if it holds no finite value of an objective, or something that is no number.
    """
    known = dict(facts or {}) if len(objectives) > 1 else {}
    if not isinstance(reported, Mapping):
        first = next((name for name in objectives if name not in known), objectives[0])
        reported = {first: reported}
    metrics: dict[str, float] = {}
    for name, value in reported.items():
        try:
            metrics[str(name)] = float(value)
        except (TypeError, ValueError):
            raise ReportError(f"metric {name!r} must be a number, got {value!r:.80}") from None
    for objective in objectives:
        value = {**known, **metrics}.get(objective)
        if value is None:
            beforehand = f"; it knows before training: {', '.join(sorted(known))}" if known else ""
            raise ReportError(
                f"the trainable reported no {objective!r}, which the spec names as "
                f"objective.metric; it reported: {', '.join(sorted(metrics)) or 'nothing'}"
                f"{beforehand}"
            )
        if not math.isfinite(value):
            raise NotFiniteError(f"metric {objective!r} is {value}, not a finite number")
    return metrics


def check_limited(
    quantities: Mapping[str, float], task: TrialTask, facts: Mapping[str, float]
) -> None:
    """Whether all that the spec's ``constraints`` name is known at the end of a training.

    Raises:
        UnknownQuantityError: if there is no such quantity; names those that there are.
        NotFiniteError: if it is no finite number.
    """
    for name in task.constraints:
        if name not in quantities:
            metrics = sorted(set(quantities) - set(facts))
            raise UnknownQuantityError(
                f"constraints.{name}: trainable {task.trainable!r} knows no {name!r}. It knows "
                f"before training: {', '.join(sorted(facts)) or 'nothing'}; "
                f"it reports: {', '.join(metrics)}"
            )
        if not math.isfinite(quantities[name]):
            raise NotFiniteError(f"{name!r} is {quantities[name]}, which constraints.{name} limits")


def fail_cause(error: BaseException) -> FailCause:
    """The kind of failure that an exception of a trainable is."""
    # torch's own is known by name: a trainable without torch shall not have to load it.
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return "out_of_memory"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "out_of_memory"  # torch on the CPU
    if isinstance(error, UnknownQuantityError):
        return "unknown_quantity"
    if isinstance(error, NotFiniteError | FloatingPointError | OverflowError):
        return "nan"
    return "error"


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised; empty for our own checks."""
    if isinstance(error, ReportError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    # A library that raises was called with something: the line that called it is the user's.
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    last = next(reversed(own or frames), None)
    return "" if last is None else f"{last.filename}:{last.lineno}"
