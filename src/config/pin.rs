//! Pins workers to CPUs.
//!
//! In: `pinWorkers`, the number of workers, the CPUs that this process may use and those that the host runs. Out: a CPU for each
//! worker, or what is wrong; a notice if `spread` `"cpu"` does not fit. Next: `validate.rs`.

use super::PinWorkers;
use super::fields::Field;
use super::report::Report;
use crate::text::count;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The setting, and the CPU of each worker; none if they are not pinned. Without a valid number of workers only the list
/// itself is validated.
pub(super) fn validate(
    slot: Field<PinWorkers>,
    workers: Option<usize>,
    report: &mut Report,
) -> (PinWorkers, Vec<usize>) {
    let (place, setting) = match slot {
        Field::Given(place, setting) if setting != PinWorkers::Off => (place, setting),
        Field::Given(..) | Field::Absent | Field::Wrong => return (PinWorkers::Off, Vec::new()),
    };
    let allowed = allowed().map_err(|error| vec![format!("cannot read the allowed CPUs: {error}")]);
    match allowed.and_then(|allowed| choose(&setting, workers, &allowed)) {
        Ok(cpus) => (setting, cpus),
        Err(mistakes) => {
            for mistake in mistakes {
                report.mistake(place, format!("pinWorkers: {mistake}"));
            }
            (setting, Vec::new())
        }
    }
}

/// The CPUs that this thread may use, and so every thread that it starts, in order.
fn allowed() -> nix::Result<Vec<usize>> {
    let cpus = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)).collect())
}

/// A CPU for each worker, or all errors.
fn choose(
    setting: &PinWorkers,
    workers: Option<usize>,
    allowed: &[usize],
) -> Result<Vec<usize>, Vec<String>> {
    let cpus = match setting {
        PinWorkers::Off => return Ok(Vec::new()),
        PinWorkers::Auto => {
            return match workers {
                Some(workers) if workers > allowed.len() => Err(vec![format!(
                    "there are {workers} workers, and this process may use only {} (CPU {}): set workers to at most {}",
                    count(allowed.len(), "CPU"),
                    ranges(allowed),
                    allowed.len(),
                )]),
                workers => Ok(allowed.iter().copied().take(workers.unwrap_or(0)).collect()),
            };
        }
        PinWorkers::Cpus(cpus) => cpus,
    };
    let mut mistakes = Vec::new();
    for (index, cpu) in cpus.iter().enumerate() {
        if cpus[..index].contains(cpu) {
            mistakes.push(format!("CPU {cpu} is listed twice; two workers would compete for it"));
        } else if !allowed.contains(cpu) {
            mistakes.push(format!("this process may not use CPU {cpu} (it may use {})", ranges(allowed)));
        }
    }
    if let Some(workers) = workers.filter(|workers| *workers != cpus.len()) {
        let (listed, workers) = (count(cpus.len(), "CPU"), count(workers, "worker"));
        mistakes.push(format!("{listed} listed for {workers}; list one for each, or set workers"));
    }
    if mistakes.is_empty() { Ok(cpus.clone()) } else { Err(mistakes) }
}

/// A notice if `spread` `"cpu"` cannot keep every datagram on the CPU where it arrives. `cpus` are those of the workers.
pub(super) fn steering_notice(workers: usize, cpus: &[usize]) -> Option<String> {
    // Where it cannot be read, nothing is known about other CPUs.
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    misfit(workers, cpus, &parse_ranges(&online))
}

fn misfit(workers: usize, cpus: &[usize], online: &[usize]) -> Option<String> {
    if cpus.is_empty() {
        return Some(format!(
            "spread: cpu without pinWorkers: a datagram goes to the worker whose index is the number of the CPU where it arrives, \
             modulo {workers}, and that worker may run on any CPU; set pinWorkers"
        ));
    }
    let others: Vec<usize> = online.iter().copied().filter(|cpu| !cpus.contains(cpu)).collect();
    let mut own = cpus.to_vec();
    own.sort_unstable();
    (!others.is_empty()).then(|| {
        format!(
            "spread: no worker is pinned to CPU {}: a datagram that arrives there goes to the worker whose index is the CPU's \
             number modulo {workers}; restrict the interrupts of the network device (smp_affinity, RPS) to CPU {}, or pin a \
             worker to each CPU",
            ranges(&others),
            ranges(&own),
        )
    })
}

/// CPUs as the kernel writes them, in [`ranges`]; empty if it is something else.
fn parse_ranges(text: &str) -> Vec<usize> {
    let bounds = |run: &str| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        Some(first.parse::<usize>().ok()?..=last.parse().ok().filter(|last| *last < CpuSet::count())?)
    };
    let runs: Option<Vec<_>> = text.trim().split(',').map(bounds).collect();
    runs.into_iter().flatten().flatten().collect()
}

/// CPUs as the kernel writes them: `0-3,8`.
fn ranges(cpus: &[usize]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for run in cpus.chunk_by(|one, next| one + 1 == *next) {
        match run {
            [only] => texts.push(only.to_string()),
            [first, .., last] => texts.push(format!("{first}-{last}")),
            [] => {}
        }
    }
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use PinWorkers::{Auto, Cpus, Off};

    #[test]
    fn each_worker_has_its_own_allowed_cpu() {
        let allowed = [1, 2, 3, 8];
        assert_eq!(choose(&Off, Some(9), &allowed), Ok(vec![]));
        assert_eq!(choose(&Auto, Some(2), &allowed), Ok(vec![1, 2]));
        assert_eq!(choose(&Auto, Some(4), &allowed), Ok(vec![1, 2, 3, 8]));
        assert_eq!(choose(&Cpus(vec![8, 1]), Some(2), &allowed), Ok(vec![8, 1]));
        // An invalid number of workers is reported elsewhere.
        assert_eq!(choose(&Cpus(vec![8, 1]), None, &allowed), Ok(vec![8, 1]));
        assert!(choose(&Auto, None, &allowed).is_ok());
    }

    #[test]
    fn cpus_without_a_worker_of_their_own_are_named() {
        let online = parse_ranges("0-3,8\n");
        assert_eq!(online, [0, 1, 2, 3, 8]);
        assert_eq!((parse_ranges(""), parse_ranges("0-99999999999")), (vec![], vec![]));
        assert_eq!(misfit(5, &[8, 3, 2, 1, 0], &online), None);
        assert_eq!(misfit(2, &[0, 1], &[]), None);
        let unpinned = misfit(2, &[], &online).unwrap();
        assert!(
            unpinned.contains("modulo 2, and that worker may run on any CPU; set pinWorkers"),
            "{unpinned}"
        );
        let partly = misfit(3, &[3, 0, 1], &online).unwrap();
        assert!(partly.starts_with("spread: no worker is pinned to CPU 2,8: "), "{partly}");
        assert!(
            partly.contains("modulo 3; restrict ") && partly.contains(" to CPU 0-1,3, or pin "),
            "{partly}"
        );
    }

    #[test]
    fn impossible_pinning_is_refused_with_numbers() {
        let allowed = [1, 2, 3, 8];
        let mistakes = |setting, workers| choose(&setting, Some(workers), &allowed).unwrap_err();
        assert_eq!(
            mistakes(Auto, 5),
            [
                "there are 5 workers, and this process may use only 4 CPUs (CPU 1-3,8): set workers to at most 4"
            ]
        );
        assert_eq!(
            mistakes(Cpus(vec![1, 0, 1]), 2),
            [
                "this process may not use CPU 0 (it may use 1-3,8)",
                "CPU 1 is listed twice; two workers would compete for it",
                "3 CPUs listed for 2 workers; list one for each, or set workers",
            ]
        );
        assert_eq!(
            mistakes(Cpus(vec![]), 1),
            ["0 CPUs listed for 1 worker; list one for each, or set workers"]
        );
    }
}
