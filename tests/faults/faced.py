"""The faults that this was built to survive, each with the tests that bring it about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# What goes wrong -> file under `tests/` and name of each test.
FACED: Mapping[str, Sequence[str]] = {
    "PostgreSQL is killed inside a piece of an undo": (
        "faults/test_servers.py::test_an_undo_survives_postgresql_killed_inside_a_piece",
    ),
    "PostgreSQL is told to end while the API is away": (
        "faults/test_servers.py::test_a_run_survives_an_orderly_restart_while_the_api_is_away",
    ),
    "a worker sleeps longer than its lease, then wakes up": (
        "faults/test_network.py::test_a_network_cut_for_longer_than_a_lease_lets_nobody_write_twice",
        "test_races.py::test_a_stale_attempt_that_wakes_up_is_refused_at_its_write",
    ),
    "a worker is told to end while the API is away": (
        "faults/test_crashes.py::test_a_closed_terminal_is_a_signal_like_others",
    ),
    "PostgreSQL's disk is full": (
        "faults/test_full_disk.py::test_a_run_goes_on_once_a_full_disk_has_room",
    ),
    "every connection of the API's pool is taken": (
        "faults/test_network.py::test_an_unknown_outcome_is_looked_up_and_not_guessed",
    ),
    "a target is locked for a minute": (
        "faults/test_waits.py::test_a_lock_on_a_target_is_waited_out",
    ),
    "a version column gets another name": (
        "test_renamed.py::test_the_run_pauses_with_what_is_gone_and_goes_on_once_it_is_back",
    ),
    "a target's table gets another name": (
        "test_renamed.py::test_the_run_pauses_with_what_is_gone_and_goes_on_once_it_is_back",
        "test_renamed.py::test_an_undo_of_a_table_that_is_gone_says_where_to_look",
    ),
    "targets and our tables are rewritten and indexed anew": (
        "faults/test_owner.py::test_a_run_goes_on_whatever_the_owner_does",
        "faults/test_owner.py::test_a_run_goes_on_while_the_owner_does_one_thing",
    ),
    "a target is truncated by its owner": (
        "test_partitions.py"
        "::test_rows_truncated_in_a_partition_without_its_guard_fail_the_verification",
    ),
    "scorers deadlock among each other": (
        "faults/test_repetition.py::test_a_deadlock_that_comes_each_time_fails_its_session",
        "test_trouble.py::test_a_call_that_was_crowded_out_is_made_again_and_fails_the_fifth_time",
    ),
    "a scorer is slower than its time limit": (
        "test_trouble.py::test_more_than_half_failed_after_twenty_pauses_the_run",
        "test_bulk.py::test_a_scorer_that_is_too_slow_in_bulk_is_called_one_by_one",
    ),
    "the project's JWT secret is changed": (
        "faults/test_owner.py::test_a_run_goes_on_with_the_new_key_after_its_secret_was_changed",
    ),
    "an answer is empty, null or no answer of ours": (
        "faults/test_answers.py::test_an_answer_of_another_shape_is_a_lost_answer",
        "test_reading.py::test_an_answer_of_another_form_is_one_error",
    ),
    "apply twice, verify, rollback and retry at once": (
        "test_state_machine.py::test_the_promises_hold_after_any_sequence_of_verbs",
    ),
    "transactions are read-only by default": (
        "faults/test_owner.py::test_a_run_goes_on_whatever_the_owner_does",
        "faults/test_owner.py::test_a_run_goes_on_while_the_owner_does_one_thing",
    ),
    "every writing call is refused as read-only for a while": (
        "faults/test_waits.py::test_a_call_of_ours_is_repeated_after_what_passes",
    ),
    "connections are ended one after the other": (
        "faults/test_servers.py::test_a_run_survives_a_restart_of_postgresql",
    ),
    "several runs want the same sessions under one bound": (
        "faults/test_workers.py::test_two_runs_over_the_same_sessions_score_each_once",
        "test_throttle.py::test_running_runs_share_the_projects_bound",
    ),
    "the target's migration is applied again and again": (
        "faults/test_owner.py::test_a_run_goes_on_whatever_the_owner_does",
        "faults/test_owner.py::test_a_run_goes_on_while_the_owner_does_one_thing",
    ),
    "rows of several megabytes that do not compress": (
        "faults/test_large_rows.py::test_large_rows_are_overwritten_and_put_back",
    ),
    "batches are settled out of order, a score or a settling comes late": (
        "test_races.py::test_a_stale_attempt_that_wakes_up_is_refused_at_its_write",
        "test_service_key.py::test_a_lease_that_ran_out_is_not_renewed",
        "faults/test_network.py::test_an_error_about_a_committed_call_is_no_second_call",
    ),
    "the folder of the logs is gone, a file, a link, a pipe, full": (
        "test_logs.py::test_a_folder_that_vanishes_stops_nothing",
        "test_logs.py::test_a_file_where_the_folder_should_be_stops_nothing",
        "test_logs.py::test_a_link_is_not_followed_and_a_pipe_not_waited_for",
        "test_logs.py::test_a_link_in_place_of_a_runs_folder_is_not_followed",
        "test_missing_files.py::test_a_disk_that_fills_up_while_the_run_runs_stops_nothing",
    ),
    "proxies, names and certificates of the environment are wrong": (
        "test_proxies.py::test_a_shell_says_it_in_a_sentence_that_names_the_variable",
        "test_proxies.py::test_the_library_raises_the_same",
        "test_transport.py::test_what_cannot_be_reached_is_named_with_port_and_cause",
        "test_transport.py::test_a_port_without_tls_is_named_as_such",
    ),
    "thousands of leases of dead workers": (
        "test_leases.py::test_a_claim_takes_no_more_leases_back_than_it_can",
        "test_leases.py::test_an_undo_takes_the_leases_back_before_its_first_row",
    ),
    "a batch of thousands": ("test_requesting.py::test_what_is_out_of_bounds_is_refused",),
    "a signal, a closed terminal, a reader who has gone, a full device": (
        "faults/test_crashes.py::test_a_signal_finishes_what_is_in_flight_and_gives_the_rest_back",
        "faults/test_crashes.py::test_a_closed_terminal_is_a_signal_like_others",
        "test_streams.py::test_a_reader_who_has_gone_changes_nothing",
        "test_streams.py::test_an_answer_that_no_disk_takes_is_a_failure_in_one_sentence",
    ),
    "the API reads its schema again and again": (
        "faults/test_owner.py::test_a_run_goes_on_whatever_the_owner_does",
        "faults/test_owner.py::test_a_run_goes_on_while_the_owner_does_one_thing",
    ),
    "two confirm an undo, one is killed": (
        "faults/test_undo.py::test_a_killed_undo_is_confirmed_again_with_the_same_digest",
        "test_undo_sets.py::test_an_undo_confirmed_again_goes_on_where_it_stopped",
    ),
    "answers of a wrong shape, one kind at a time": (
        "faults/test_answers.py::test_an_answer_of_another_shape_is_a_lost_answer",
    ),
    "the local stack's supervisor is killed": (
        "test_stack.py::test_a_killed_supervisor_leaves_no_process_and_the_next_start_works",
    ),
    "calls one by one and in bulk over the same sessions, a worker killed": (
        "test_bulk.py::test_two_runs_over_the_same_sessions_score_each_once",
        "faults/test_bulk.py::test_killed_workers_leave_nothing_leased",
    ),
    "the process that drives a run inside the database is killed": (
        "faults/test_driver.py::test_a_driven_run_survives_kills_and_a_restart",
        "faults/test_driver.py::test_a_driver_is_killed_beside_a_worker",
        "test_drive_cron.py::test_a_large_run_survives_three_kills",
    ),
    "heals are killed while they plan and score, two at once": (
        "faults/test_heal.py::test_a_killed_heal_is_gone_on_with_by_the_next",
        "faults/test_heal.py::test_of_two_heals_at_once_one_is_killed",
    ),
    "an undo beside a run that overwrites the same rows": (
        "test_races.py::test_an_undo_waits_for_who_is_changing_a_row_and_leaves_it",
    ),
}
