use proptest::{collection::vec, prelude::*};

use super::*;

/// A run whose SELECT is from 12.5 to 29.5 ms and FETCH from 30.1 to 53.4 ms.
fn run() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

/// A sample so many microseconds after the run began.
fn sample(process: ServerProcessName, id: u64, at: i64, cpu: u64, queue: u64) -> ProcessSample {
    let at = run().started_at.epoch_micros() + at;
    let at = UNIX_EPOCH + Duration::from_micros(u64::try_from(at).unwrap());
    let [cpu, run_queue] = [cpu, queue].map(Duration::from_micros);
    ProcessSample { at: at.into(), process_id: id, process, cpu, run_queue, block_wait: None }
}

fn imap(at: i64, cpu: u64, queue: u64) -> ProcessSample {
    sample(ServerProcessName::Imap, 1, at, cpu, queue)
}

fn accounted(samples: &[ProcessSample]) -> Vec<ServerProcess> {
    let mut run = run();
    add_processes_of_host(&mut run, &ServerText::new(b"mail01", 64), samples);
    run.server_events.map_or(Vec::new(), |server| server.processes)
}

fn of_step<'a>(processes: &'a [ServerProcess], span: &str) -> Option<&'a ServerProcess> {
    processes.iter().find(|process| process.span_id.is_some_and(|id| id.to_string() == span))
}

const SELECT: &str = "1000000000000006";

#[test]
fn a_step_has_the_difference_of_the_samples_next_to_its_ends() {
    let samples =
        [imap(-10_000, 100, 0), imap(12_000, 1_000, 500), imap(29_000, 4_000, 2_500), imap(60_000, 9_000, 3_000)];
    let processes = accounted(&samples);
    let select = of_step(&processes, SELECT).unwrap();
    assert_eq!((select.cpu_s.as_micros(), select.run_queue_s.as_micros()), (3_000, 2_000));
    assert_eq!(select.sampled_s.as_micros(), 17_000);
    let all = processes.iter().find(|process| process.span_id.is_none()).unwrap();
    assert_eq!((all.cpu_s.as_micros(), all.run_queue_s.as_micros()), (8_900, 3_000));
}

#[test]
fn without_a_sample_within_20_ms_of_both_ends_there_is_only_the_sum() {
    let processes = accounted(&[imap(-9_000, 100, 0), imap(55_000, 4_000, 2_500)]);
    assert_eq!(of_step(&processes, SELECT), None);
    let all = processes.iter().find(|process| process.span_id.is_none()).unwrap();
    assert_eq!(all.cpu_s.as_micros(), 3_900);
}

#[test]
fn a_step_between_two_samples_has_no_figures_and_a_wait_from_before_is_not_all_of_it() {
    // Both ends of SELECT are nearest to one sample.
    let processes = accounted(&[imap(-9_000, 100, 0), imap(21_000, 4_000, 2_500), imap(52_000, 5_000, 2_600)]);
    assert_eq!(of_step(&processes, SELECT), None);
    // The kernel counts a wait for a CPU when it ends.
    let processes = accounted(&[imap(12_000, 1_000, 0), imap(29_000, 4_000, 90_000)]);
    let select = of_step(&processes, SELECT).unwrap();
    assert_eq!((select.sampled_s.as_micros(), select.cpu_s.as_micros()), (17_000, 3_000));
    assert_eq!(select.run_queue_s.as_micros(), 14_000);
}

#[test]
fn a_new_process_has_used_all_in_the_run_and_of_an_older_one_two_samples_tell() {
    let login = |at| sample(ServerProcessName::ImapLogin, 2, at, 0, 0);
    let of_imap = |samples: &[ProcessSample]| {
        let processes = accounted(&[&[login(-50_000), login(60_000)], samples].concat());
        processes.into_iter().find(|process| process.process == ServerProcessName::Imap && process.span_id.is_none())
    };
    let new = of_imap(&[imap(20_000, 1_500, 700)]).unwrap();
    assert_eq!((new.cpu_s.as_micros(), new.run_queue_s.as_micros()), (1_500, 700));
    assert_eq!(accounted(&[imap(20_000, 90_000, 0)]), []);
}

#[test]
fn the_processes_of_more_hosts_than_a_run_may_have_are_left_out() {
    let mut run = run();
    for host in 0..20 {
        add_processes_of_host(
            &mut run,
            &ServerText::new(format!("mail{host}").as_bytes(), 64),
            &[imap(0, 1, 1), imap(10_000, 2, 2)],
        );
    }
    assert_eq!(run.server_events.unwrap().hosts.len(), ServerEvents::MAX_HOSTS);
}

#[test]
fn between_two_equal_samples_a_process_used_nothing_however_far_apart_they_are() {
    let idle = |at| sample(ServerProcessName::Auth, 2, at, 700, 0);
    let samples = [idle(-9_000_000), idle(9_000_000), imap(-9_000, 100, 0), imap(55_000, 100, 0), imap(60_000, 200, 0)];
    let processes = accounted(&samples);
    let select = of_step(&processes, SELECT).unwrap();
    assert_eq!((select.process, select.cpu_s.as_micros()), (ServerProcessName::Imap, 0));
    assert_eq!(select.sampled_s.as_micros(), 17_000);
    let login = processes.iter().find(|process| process.process == ServerProcessName::Auth).unwrap();
    assert_eq!((login.cpu_s, login.sampled_s.as_micros()), (Seconds::ZERO, 4_900));
}

#[test]
fn a_process_that_began_later_began_with_nothing() {
    let login = |at| sample(ServerProcessName::ImapLogin, 2, at, 0, 0);
    let samples = [login(-50_000), login(0), imap(11_000, 1_500, 700), imap(29_000, 4_000, 2_500)];
    let processes = accounted(&samples);
    // LOGIN from 7.1 to 12 ms.
    let started = of_step(&processes, "1000000000000005").unwrap();
    assert_eq!(started.process, ServerProcessName::Imap);
    assert_eq!((started.cpu_s.as_micros(), started.run_queue_s.as_micros()), (1_500, 700));
    let all = processes.iter().find(|one| one.span_id.is_none() && one.process == ServerProcessName::Imap).unwrap();
    assert_eq!(all.cpu_s.as_micros(), 4_000);
}

#[test]
fn the_rest_of_the_running_time_is_storage() {
    let body = format!(
        r#"{{"event":"imap_command_finished","hostname":"mail01","start_time":"2026-11-23T11:42:40.215000Z",
        "end_time":"2026-11-23T11:42:40.230000Z","fields":{{"cmd_tag":"{SELECT}","cmd_name":"SELECT","running_usecs":15000,
        "lock_wait_usecs":4000}}}}"#
    );
    let mut run = run();
    let event = crate::server_events::parse(body.as_bytes()).unwrap();
    run.server_events = crate::server_events::assemble(&[event], &run).map(Box::new);
    add_processes_of_host(
        &mut run,
        &ServerText::new(b"mail01", 64),
        &[imap(12_000, 1_000, 500), imap(29_000, 4_000, 2_500)],
    );
    let server = run.server_events.unwrap();
    assert_eq!(server.hosts.len(), 1, "events and samples of one host");
    assert_eq!(of_step(&server.processes, SELECT).unwrap().rest_s, Some(Seconds::from_micros(6_000)));
}

#[test]
fn nothing_comes_of_no_samples() {
    assert_eq!(accounted(&[]), []);
}

proptest! {
    // Without optimisation a case takes 40 ms.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_samples_break_it_and_there_are_never_too_many_entries(
        rows in vec((0usize..3, 0u64..40, -100_000i64..200_000, 0u64..1_000_000, 0u64..1_000_000), 0..300),
    ) {
        let samples: Vec<_> = rows
            .iter()
            .map(|(name, id, at, cpu, queue)| sample(ServerProcessName::ALL[*name], *id, *at, *cpu, *queue))
            .collect();
        prop_assert!(accounted(&samples).len() <= ServerEvents::MAX_PROCESSES);
        let mut turned = samples.clone();
        turned.reverse();
        prop_assert_eq!(accounted(&turned).len(), accounted(&samples).len());
    }
}
