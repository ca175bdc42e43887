"""What handles which fault, how to take it away, and the test that must notice; see `tests.faults.sabotage`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sabotage:
    """One handling, and how to take it away.

    Attributes:
        fault: What goes wrong.
        file: That handles it.
        handling: Source text that does; it occurs once.
        instead: What stands there without it.
        test: That must notice, as pytest names it.
    """

    fault: str
    file: str
    handling: str
    instead: str
    test: str


MONITORING = "monitoring/leanloop/monitoring"
SERVING = "serving/leanloop/serving"
FAILED_LOOK = (
    "tests/monitoring/test_loop_faults.py::test_a_look_that_fails_for_one_model_keeps_nothing_else_from_being_looked_at"
)

TABLE = (
    Sabotage(
        "a duplicate alert",
        f"{MONITORING}/alerts.py",
        "            known = session.scalars(select(AlertRow).where(*key)).one_or_none()",
        "            known, started = None, time.time_ns() * 1e-9",
        "tests/monitoring/test_alerts.py::test_an_episode_counts_once_however_often_it_is_told",
    ),
    Sabotage(
        "a reordered alert: firing after resolved",
        f"{MONITORING}/alerts.py",
        'elif known.status == "firing" and alert.status == "resolved":\n                known.status = "resolved"',
        "elif known.status != alert.status:\n                known.status = alert.status",
        "tests/monitoring/test_alerts.py::test_an_episode_ends_and_an_old_message_does_not_bring_it_back",
    ),
    Sabotage(
        "an alert that is resolved before it was told",
        f"{MONITORING}/alerts.py",
        'if known is None and alert.status == "resolved":',
        'if known is None and alert.status == "never":',
        "tests/monitoring/test_alerts.py::test_what_is_not_believed_is_counted_and_not_kept",
    ),
    Sabotage(
        "an alert from the future",
        f"{MONITORING}/alerts.py",
        "if started > now + LATEST_SECONDS:",
        "if started > now + 1e12:",
        "tests/monitoring/test_alerts.py::test_what_is_not_believed_is_counted_and_not_kept",
    ),
    Sabotage(
        "an alert about an unknown model",
        f"{MONITORING}/alerts.py",
        'if alert.labels.get("model") not in models:',
        "if False:",
        "tests/monitoring/test_alerts.py::test_what_is_not_believed_is_counted_and_not_kept",
    ),
    Sabotage(
        "a replayed alert of days ago",
        f"{MONITORING}/alerts.py",
        'if started < now - OLDEST_SECONDS and alert.status == "firing":',
        "if False:",
        "tests/monitoring/test_alerts.py::test_what_is_not_believed_is_counted_and_not_kept",
    ),
    Sabotage(
        "an alert that Prometheus shows and Alertmanager tells",
        f"{MONITORING}/alerts.py",
        "                known = self._adopt(session, alert.fingerprint, started)",
        "                pass",
        "tests/monitoring/test_alerts.py::test_an_episode_that_is_shown_and_told_is_one",
    ),
    Sabotage(
        "an alert of another release",
        f"{MONITORING}/alerts.py",
        "return fits and row.version in (None, incident.version)",
        "return fits",
        "tests/monitoring/test_alerts.py::test_alerts_belong_to_the_incident_of_their_model_release_and_question",
    ),
    Sabotage(
        "a message of too many alerts",
        f"{MONITORING}/alerts.py",
        "alerts: Annotated[list[Alert], Field(max_length=MOST_ALERTS)]",
        "alerts: list[Alert]",
        "tests/monitoring/test_alerts.py::test_a_message_of_another_shape_is_refused_whole",
    ),
    Sabotage(
        "an alert that the database does not take now",
        f"{MONITORING}/service.py",
        "@app.exception_handler(OperationalError)",
        "@app.exception_handler(ZeroDivisionError)",
        "tests/monitoring/test_service.py::test_a_database_that_is_gone_is_told_as_busy",
    ),
    Sabotage(
        "a body that hides its size",
        f"{MONITORING}/service.py",
        'if request.method == "POST" and (length is None or not length.isdecimal()):',
        "if False:",
        "tests/monitoring/test_service.py::test_a_body_that_hides_its_size_is_not_taken",
    ),
    Sabotage(
        "an oversized message",
        f"{MONITORING}/service.py",
        "if length is not None and int(length) > MOST_BYTES:",
        "if False:",
        "tests/monitoring/test_service.py::test_a_body_that_is_too_large_is_not_taken",
    ),
    Sabotage(
        "a wrong token",
        f"{MONITORING}/service.py",
        "if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):",
        "if given is None:",
        "tests/monitoring/test_service.py::test_writes_need_the_token",
    ),
    Sabotage(
        "a request about an unknown model",
        f"{MONITORING}/service.py",
        "if model not in loop.models():",
        "if False:",
        "tests/monitoring/test_service.py::test_an_unknown_model_is_named",
    ),
    Sabotage(
        "a label of the wrong type",
        f"{MONITORING}/labels.py",
        'model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)',
        "model_config = ConfigDict(frozen=True)",
        "tests/monitoring/test_service.py::test_one_wrong_label_refuses_all",
    ),
    Sabotage(
        "a second label that contradicts",
        f"{MONITORING}/labels.py",
        "elif known[key] == label.label:",
        "elif True:",
        "tests/monitoring/test_labels.py::test_a_label_is_told_once_twice_and_otherwise",
    ),
    Sabotage(
        "labels for unknown ids, kept for ever",
        f"{MONITORING}/labels.py",
        "delete(LabelRow).where(LabelRow.received < before)",
        "delete(LabelRow).where(LabelRow.received < 0)",
        "tests/monitoring/test_labels.py::test_past_the_horizon_they_are_forgotten",
    ),
    Sabotage(
        "a damaged segment",
        f"{MONITORING}/collect.py",
        "except (ValueError, SettingsError):",
        "except ZeroDivisionError:",
        "tests/monitoring/test_collect.py::test_what_is_whole_of_a_damaged_segment_is_kept",
    ),
    Sabotage(
        "captured values that are no numbers",
        f"{MONITORING}/feed.py",
        "finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))",
        "pass",
        "tests/monitoring/test_feed.py::test_broken_records_are_counted_and_kept_from_judgement",
    ),
    Sabotage(
        "captured tensors of a wrong shape",
        f"{MONITORING}/feed.py",
        "fitting = [table for table in tables if not _misfit(table, spec)]",
        "fitting = list(tables)",
        "tests/monitoring/test_feed.py::test_broken_records_are_counted_and_kept_from_judgement",
    ),
    Sabotage(
        "captured tensors of a wrong type",
        f"{MONITORING}/collect.py",
        "if np.dtype(column.type.value_type.to_pandas_dtype()) != np.dtype(tensor.dtype):",
        "if False:",
        "tests/monitoring/test_feed.py::test_broken_records_are_counted_and_kept_from_judgement",
    ),
    Sabotage(
        "broken requests go on being kept",
        f"{MONITORING}/act.py",
        "self.server.freeze_capture(incident.model)",
        "pass",
        "tests/monitoring/test_loop_faults.py::test_captured_values_that_are_no_numbers_freeze_the_capture",
    ),
    Sabotage(
        "a killed program of the stack",
        f"{MONITORING}/stack/supervisord.py",
        '"autorestart": "true",',
        '"autorestart": "false",',
        "tests/monitoring/stack/test_supervise.py::test_a_killed_program_comes_back",
    ),
    Sabotage(
        "a killed Triton",
        f"{MONITORING}/stack/supervisord.py",
        '"autorestart": "true",',
        '"autorestart": "false",',
        "tests/monitoring/stack/test_supervise.py::test_a_killed_triton_comes_back",
    ),
    Sabotage(
        "a killed stub, which Triton does not notice",
        f"{MONITORING}/act.py",
        "self.server.reload(incident.model)",
        "pass",
        "tests/monitoring/test_loop_faults.py::test_a_killed_model_process_is_mended_and_told",
    ),
    Sabotage(
        "a Triton that is just starting",
        f"{MONITORING}/watched.py",
        "        elif not probe.starting:",
        "        else:",
        "tests/e2e/test_loop.py::test_a_server_that_is_just_starting_is_not_laid_at_the_new_releases_door",
    ),
    Sabotage(
        "a server that no reload mends",
        f"{MONITORING}/act.py",
        "if count > MOST_REPAIRS:",
        "if False:",
        "tests/monitoring/test_loop_faults.py::test_a_server_that_is_gone_is_paged_after_some_tries",
    ),
    Sabotage(
        "a killed Prometheus: the loop is blind",
        f"{MONITORING}/loop.py",
        'return None, f"{error.what} {error.value}"',
        'return (), ""',
        "tests/monitoring/test_loop_faults.py::test_without_prometheus_the_loop_says_that_it_is_blind",
    ),
    Sabotage(
        "nobody is told that the loop is blind",
        f"{MONITORING}/pager.py",
        'if self._alertmanager and _post(f"http://{self._alertmanager}/api/v2/alerts", [alert]):',
        "if True:",
        "tests/monitoring/test_pager.py::test_blindness_is_told_to_alertmanager_once_in_hours",
    ),
    Sabotage(
        "a page while Alertmanager is stopped",
        f"{MONITORING}/pager.py",
        'if self._alertmanager and answers(self._alertmanager, "/-/ready"):',
        "if self._alertmanager:",
        "tests/monitoring/test_pager.py::test_an_incident_is_told_by_the_loop_only_where_no_alertmanager_answers",
    ),
    Sabotage(
        "a page that nobody took",
        f"{MONITORING}/pager.py",
        "            self._due[key] = now + _UNHEARD_AGAIN_SECONDS",
        "            pass",
        "tests/monitoring/test_pager.py::test_a_page_that_nobody_took_is_told_again_soon",
    ),
    Sabotage(
        "a run that its service left behind, when the stack ends",
        "pipelines/leanloop/pipelines/cli/loop.py",
        "        runs = LocalLauncher(settings, project_of(params)).end_all()",
        "        runs = ()",
        "tests/pipelines/test_launch.py::test_runs_that_their_service_left_behind_end_with_the_stack",
    ),
    Sabotage(
        "a step that starts while the stack ends",
        f"{SERVING}/process.py",
        "            left += member.children()",
        "            pass",
        "tests/serving/test_server.py::test_what_starts_while_its_family_ends_is_ended_too",
    ),
    Sabotage(
        "a service killed between writing a run down and starting it",
        f"{MONITORING}/runs.py",
        '_UNDER_WAY: tuple[_Ledger, ...] = ("requested", "running")',
        '_UNDER_WAY: tuple[_Ledger, ...] = ("running",)',
        "tests/monitoring/test_runs.py::test_a_service_that_died_between_writing_and_starting_starts_it_later",
    ),
    Sabotage(
        "a service killed between writing a run down and its incident",
        f"{MONITORING}/act.py",
        "if under_way is not None and under_way.request.incident == incident.id:",
        "if False:",
        "tests/monitoring/test_act.py::test_a_run_that_a_dying_service_wrote_down_belongs_to_its_incident",
    ),
    Sabotage(
        "a service killed between the end of a run and its incident",
        f"{MONITORING}/act.py",
        "if run is not None and run.result is not None:",
        "if False:",
        "tests/monitoring/test_act.py::test_an_end_that_a_dying_service_wrote_down_last_reaches_the_incident",
    ),
    Sabotage(
        "a run that dies half-way",
        f"{MONITORING}/runs.py",
        'if found.state in ("absent", "died"):',
        'if found.state == "absent":',
        "tests/monitoring/test_runs.py::test_a_run_whose_process_dies_is_started_again_once",
    ),
    Sabotage(
        "a second run while one is under way",
        f"{MONITORING}/runs.py",
        "if holder is not None or not take_lease(",
        "if False and not take_lease(",
        "tests/monitoring/test_runs.py::test_there_is_one_run_at_a_time",
    ),
    Sabotage(
        "rows are judged again after a restart",
        f"{MONITORING}/watch.py",
        "                session.merge(TakenRow(model=model, version=version, file=file, rows=rows))",
        "                pass",
        "tests/monitoring/test_watch.py::test_what_was_seen_outlives_the_service",
    ),
    Sabotage(
        "a window whose judgement fails",
        f"{MONITORING}/feed.py",
        "            yield window\n            self._use(window.taken)\n            self.skipped += excess",
        "            self._use(window.taken)\n            yield window\n            self.skipped += excess",
        "tests/monitoring/test_watch.py::test_a_window_whose_judgement_failed_is_judged_at_the_next_look",
    ),
    Sabotage(
        "a look that fails for one model",
        f"{MONITORING}/loop.py",
        "                with told(model, now, model=model):",
        "                if True:",
        FAILED_LOOK,
    ),
    Sabotage(
        "a model whose configuration is damaged, beside others",
        f"{MONITORING}/server.py",
        "                continue  # the look at this model says so",
        "                raise  # the look at this model says so",
        FAILED_LOOK,
    ),
    Sabotage(
        "nobody is told that looks fail",
        f"{MONITORING}/failures.py",
        "paged=looks >= PAGE_AFTER",
        "paged=False",
        FAILED_LOOK,
    ),
    Sabotage(
        "a new release that answers wrongly",
        f"{MONITORING}/watched.py",
        "self._right, self._windows = server.answers_rightly(served), self.watch.windows",
        "self._right, self._windows = True, self.watch.windows",
        "tests/monitoring/test_loop_faults.py::test_a_new_release_that_fails_is_rolled_back",
    ),
    Sabotage(
        "a challenger that is worse on what the owner brought",
        "components/leanloop/select/challenge.py",
        '        passed, verdict = False, "lost more than a point"',
        '        passed, verdict = True, "lost more than a point"',
        "tests/select/test_challenge.py::test_who_is_not_better_where_it_must_be_or_is_worse_elsewhere_does_not",
    ),
    Sabotage(
        "a challenger that is slower in Triton only",
        f"{SERVING}/shadow.py",
        "        if ratio.low > limit",
        "        if False",
        "tests/serving/test_rollout_shadow.py::test_a_challenger_that_is_slower_in_triton_is_refused",
    ),
    Sabotage(
        "a full capture disk",
        f"{SERVING}/capture_format.py",
        "            except OSError:\n",
        "            except ZeroDivisionError:\n",
        "tests/serving/test_capture_format.py::test_a_disk_that_takes_nothing_loses_records_and_goes_on",
    ),
    Sabotage(
        "a rollout that a crash interrupted",
        f"{MONITORING}/loop.py",
        "            return  # what serves is just being switched",
        "            pass",
        "tests/monitoring/test_loop_faults.py::test_a_rollout_that_a_crash_interrupted_is_mended_before_the_first_look",
    ),
)
