//! Pins workers to CPUs.
//!
//! In: `pinWorkers`, the number of workers, the CPUs that this process may use. Out: a CPU for each worker, or what is
//! wrong. Next: `validate.rs`.

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
