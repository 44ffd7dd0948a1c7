"""Traps of dask, SLURM and S3 that zmend has met, and the test that springs each.

dask
    tasks that are sent all at once fill the scheduler           test_every_slab_is_done_once_and_drawn_only_when_wanted
    resources= hand everything to whoever is there first         test_a_worker_that_comes_late_gets_work
    big groups of tasks go to one worker together                test_no_worker_gets_more_than_its_share
    results that a client holds are computed again               test_what_came_home_is_not_done_again_when_its_worker_dies
    a worker that dies is held against all that it had           test_a_slab_that_kills_workers_is_given_up_and_takes_no_innocents_along
    preemption counts against a slab, too                        test_nothing_of_a_job_answers_without_the_runs_certificate
    a plugin's setup that fails is swallowed                     test_a_worker_that_fails_its_test_does_no_slab
    a scheduler listens everywhere, and asks nobody              test_nothing_off_loopback_answers_without_the_runs_own_certificate
    a scheduler that dies cancels everything without a word      test_a_scheduler_that_dies_is_named_and_no_slab_is_blamed
    a nanny leaves a worker one thread                           test_a_cpu_worker_uses_all_threads_that_the_site_gives_it
    dask-cuda cannot be imported, or fails, without a GPU        test_every_way_to_be_without_a_gpu_is_told_apart
    settings are replaced by whole branches                      test_settings_are_in_force_twice_in_one_process
SLURM and dask-jobqueue
    a job that was cancelled is never replaced                   test_a_worker_that_is_cancelled_is_replaced
    a job that SLURM has requeued is cancelled                   test_a_worker_that_is_requeued_comes_back
    jobs of a driver that was killed wait for ever               test_a_driver_that_is_killed_leaves_no_jobs_behind
    jobs that end at once are replaced for ever                  test_jobs_that_end_before_they_work_are_not_replaced_for_ever
    B: signals reach the shell alone                             test_a_job_is_told_what_the_site_says
    a job keeps its id when it is requeued                       test_a_requeued_driver_takes_its_own_lock
    two drivers share one scheduler's file                       test_of_two_drivers_the_second_waits_for_the_first
    an interface that is not there is a traceback                test_an_interface_that_is_not_there_is_named_and_nothing_is_submitted
    YAML reads a walltime as a number                            test_yaml_reads_a_bare_walltime_as_a_number
    cron ends a command at %                                     test_a_crontab_line_is_one_command_of_the_shell
S3
    an answer that is lost hides a write that was made           test_create_has_one_winner_even_when_answers_are_lost
    of two that create one object both may win                   test_create_has_one_winner_of_sixteen
    a listing ends after a thousand objects                      test_a_listing_of_many_pages_is_whole_and_in_order
    503s and broken connections                                  test_with_failing_requests_a_run_equals_the_undisturbed_one
    a record that moves lies in both places for a while          test_a_record_that_a_kill_left_in_both_places_is_not_in_force
"""

from __future__ import annotations

import re
from pathlib import Path


def test_every_trap_has_its_test() -> None:
    assert __doc__
    named = re.findall(r"\btest_\w+", __doc__)
    assert len(named) == sum(line.startswith("    ") for line in __doc__.splitlines()), "one a line"
    written = {name for path in Path(__file__).parent.rglob("test_*.py") for name in re.findall(r"(?m)^def (test_\w+)", path.read_text())}
    assert not [name for name in named if name not in written]
