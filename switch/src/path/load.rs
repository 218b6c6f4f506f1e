//! How busy the workers are, seen from outside: the kernel's account of their CPU time, looked at once in a while.
//! Workers do nothing for it. Looking on for more frames (the spin) is CPU time, too.

/// Intervals shorter than this are not judged, in nanoseconds.
const SHORTEST_NS: u64 = 500_000_000;

/// The last look and what came of it.
#[derive(Debug, Default)]
pub(super) struct Load {
    at: u64,
    cpu: Vec<u64>,
    permille: Vec<u64>,
}

impl Load {
    /// Takes the CPU time that each worker has used by `now`, in nanoseconds. `None`: not known; then nobody's share is.
    pub(super) fn look(&mut self, now: u64, cpu: Option<Vec<u64>>) {
        let Some(cpu) = cpu else {
            *self = Load::default();
            return;
        };
        let span = now.saturating_sub(self.at);
        if self.cpu.len() == cpu.len() {
            if span < SHORTEST_NS {
                return;
            }
            let share = |(now, before): (&u64, &u64)| (now.saturating_sub(*before) * 1000 / span).min(1000);
            self.permille = cpu.iter().zip(&self.cpu).map(share).collect();
        }
        (self.at, self.cpu) = (now, cpu);
    }

    /// Each worker's share of a CPU between the last two looks, in thousandths; empty: not known.
    pub(super) fn permille(&self) -> Vec<u64> {
        self.permille.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_last_interval() {
        let second = 1_000_000_000;
        let mut load = Load::default();
        load.look(10 * second, Some(vec![5 * second, 0]));
        assert!(load.permille().is_empty());
        load.look(12 * second, Some(vec![6 * second, second / 100]));
        assert_eq!(load.permille(), [500, 5]);
        load.look(12 * second + 1, Some(vec![6 * second + 1, second / 100]));
        assert_eq!(load.permille(), [500, 5], "too short an interval to be judged");
        load.look(13 * second, Some(vec![8 * second, second / 100]));
        assert_eq!(load.permille(), [1000, 0]);
        load.look(14 * second, None);
        assert!(load.permille().is_empty());
    }
}
