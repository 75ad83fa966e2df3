//! Which name is next: all in turn, or few busy and many quiet ones (Zipf).
//!
//! In: a flow. Out: a name's index. A name belongs to one flow for good, since the order of metrics is only kept from
//! one sender: name i is sent by flow i modulo the number of flows. Next: `generate.rs`.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

/// The same names in every run, so that two runs compare.
const SEED: u64 = 0x5374_6174_7344;

/// See the module.
#[derive(Debug)]
pub struct Names {
    flows: Vec<Flow>,
    random: SmallRng,
}

#[derive(Debug)]
struct Flow {
    names: u32,
    /// The rank that is next, where all come in turn.
    next: u32,
    skewed: Option<Zipf<f64>>,
}

impl Names {
    /// `names` indices over `flows` flows; with a `skew` of 0 they come in turn, else the n-th busiest name of a flow
    /// is n^skew times as rare as its busiest.
    ///
    /// # Errors
    /// A flow would have no name, or the skew is negative or not a number.
    pub fn new(names: u32, flows: u32, skew: f64) -> Result<Names, String> {
        if flows == 0 || flows > names {
            return Err(format!("--flows {flows}: each flow needs its own name; expected 1 to {names}"));
        }
        if !skew.is_finite() || skew < 0.0 {
            return Err(format!(
                "--skew {skew}: expected a number from 0 (all names equally often) to about 2"
            ));
        }
        let flow = |index: u32| {
            let count = names / flows + u32::from(index < names % flows);
            let skewed = (skew > 0.0).then(|| Zipf::new(f64::from(count), skew)).transpose();
            skewed
                .map(|skewed| Flow { names: count, next: 0, skewed })
                .map_err(|error| format!("--skew {skew}: {error}"))
        };
        let flows = (0..flows).map(flow).collect::<Result<Vec<Flow>, String>>()?;
        Ok(Names { flows, random: SmallRng::seed_from_u64(SEED) })
    }

    /// The next name of a flow.
    #[inline]
    pub fn next(&mut self, flow: usize) -> u32 {
        let count = self.flows.len() as u32;
        let names = &mut self.flows[flow];
        let rank = match &names.skewed {
            // Ranks are whole numbers from 1 to the number of names.
            Some(zipf) => (zipf.sample(&mut self.random) as u32).clamp(1, names.names) - 1,
            None => {
                let rank = names.next;
                names.next = if rank + 1 == names.names { 0 } else { rank + 1 };
                rank
            }
        };
        rank * count + flow as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_skew_each_name_comes_in_turn_from_its_own_flow() {
        let mut names = Names::new(7, 3, 0.0).unwrap();
        let mut counts = [0; 7];
        for flow in 0..3 {
            let own = if flow == 0 { 3 } else { 2 };
            for _ in 0..2 * own {
                let name = names.next(flow);
                assert_eq!(name as usize % 3, flow);
                counts[name as usize] += 1;
            }
        }
        assert_eq!(counts, [2; 7]);
    }

    #[test]
    fn with_skew_the_ranks_follow_zipfs_law() {
        let mut names = Names::new(1000, 1, 1.0).unwrap();
        let draws = 200_000;
        let mut counts = vec![0u32; 1000];
        for _ in 0..draws {
            counts[names.next(0) as usize] += 1;
        }
        // Rank n has the share 1 / (n × H) where H is the sum of 1/n.
        let sum: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1u32, 2, 5, 20] {
            let expected = f64::from(draws) / (f64::from(rank) * sum);
            let seen = f64::from(counts[rank as usize - 1]);
            // Five standard deviations; the draws are the same in every run.
            assert!((seen - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {seen}, not {expected}");
        }
        assert!(counts.iter().filter(|count| **count > 0).count() > 900);
    }

    #[test]
    fn skewed_names_stay_with_their_flow_too() {
        let mut names = Names::new(10, 4, 1.5).unwrap();
        for round in 0..1000 {
            let flow = round % 4;
            let name = names.next(flow);
            assert!(name < 10 && name as usize % 4 == flow, "{name} of flow {flow}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (names, flows, skew) in [(3, 4, 0.0), (3, 0, 0.0), (3, 1, -1.0), (3, 1, f64::NAN)] {
            assert!(Names::new(names, flows, skew).is_err(), "{names} {flows} {skew}");
        }
    }
}
